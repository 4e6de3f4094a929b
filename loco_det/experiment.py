"""One detection config over its splits: checked first, then trained and evaluated split by split, resumable."""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from loco_det.datasets.annotations import category_names, derive, load_annotations
from loco_det.datasets.splits import image_ids_sha256, select_image_ids, split_seed, write_split
from loco_det.evaluation.results import METRICS, RESULTS_FILE, TASKS, PretrainedBackbone, RunResults, SplitResult
from pretrain.checkpoints import load_into, read_backbone
from pretrain.cli import note
from pretrain.data.synthetic import ensure_configured
from pretrain.encoders import build_encoder
from pretrain.work_dir import check_work_dir, claim_work_dir, write_json

RANDOM_INIT = "random"  # the method without a checkpoint
REGISTRATION = "loco_det.register"  # imports mmdet, which takes seconds: bad input must not wait for it


@dataclass(frozen=True)
class Split:
    """The training set of one run.

    Attributes:
        index: number of the split within the protocol.
        seed: seed of the subset and of the training.
        ann_file: annotations of exactly its images.
        num_images: how many images these are.
        image_ids_sha256: hash of their ids.
    """

    index: int
    seed: int
    ann_file: Path
    num_images: int
    image_ids_sha256: str


def run_experiment(config: Config, splits: Sequence[int] | None = None, resume: bool = False) -> RunResults:
    """Trains and evaluates one run a split and writes ``results.json`` after each.

    Args:
        config: resolved config with ``work_dir`` set, of the shape of ``configs/mask_rcnn_*.py``.
        splits: which of the protocol's splits to run; None for all. A split with a result is not run again.
        resume: continue a split that was begun from its last checkpoint instead of from its start.

    Returns:
        The results of all splits finished so far.

    Raises:
        ValueError: something the run needs is missing or does not fit; before any training.
    """
    splits = check_splits(config, splits)
    check_inputs(config)
    import_modules_from_strings([name for name in config.custom_imports.imports if name != REGISTRATION])
    pretrained = _pretrained_backbone(config)
    train_content, val_content = _load_annotations(config)
    classes = category_names(train_content)
    identity = _identity(config, pretrained)
    check_work_dir(config.work_dir, identity)
    todo = [index for index in splits if not _result_file(config, index).exists()]
    if todo:
        _try_detector(config, classes)
    sha256 = claim_work_dir(config.work_dir, identity)
    val_file = Path(config.work_dir) / "annotations_val.json"
    write_json(val_file, val_content)
    for index in todo:
        split = _make_split(config, train_content, index)
        outcome = run_split(config, split, val_file, classes, resume)
        write_json(_result_file(config, index), asdict(outcome))
        _gather_results(config, pretrained, sha256)
        note(f"split {index}: " + ", ".join(f"{task} AP {getattr(outcome, task)['AP']:.2f}" for task in TASKS))
    return _gather_results(config, pretrained, sha256)


def use_data_root(config: Config, data_root: str) -> None:
    """Makes ``config`` read its data below ``data_root`` (in place)."""
    config.data.root = data_root
    config.pop("synthetic_data", None)


def use_pretrained(config: Config, path: str) -> None:
    """Makes ``config`` start from the backbone file ``path`` (in place).

    Raises:
        ValueError: the config is one of random initialisation.
    """
    if config.pretrained.method == RANDOM_INIT:
        raise ValueError(f"--pretrained {path}: this config starts from random weights; use another one, such as "
                         "configs/mask_rcnn_loco_*.py")
    config.pretrained.checkpoint = path


def check_splits(config: Config, splits: Sequence[int] | None) -> list[int]:
    """The splits to run, ascending.

    Raises:
        ValueError: one is not a split of the config's protocol.
    """
    count = config.protocol.num_splits
    chosen = sorted(set(range(count) if splits is None else splits))
    for index in chosen:
        if not 0 <= index < count:
            raise ValueError(f"split {index} does not exist; this protocol has the splits 0 to {count - 1}")
    return chosen


def check_inputs(config: Config) -> None:
    """Checks within a moment that every file the run needs is in its place.

    Raises:
        ValueError: names all that is missing, and where to get it.
    """
    ensure_configured(config)
    root = Path(config.data.root)
    wanted = [config.data.train_ann, config.data.train_images, config.data.val_ann, config.data.val_images]
    missing = [str(root / path) for path in wanted if not (root / path).exists()]
    problems = []
    launcher = config.get("launcher", "none")
    if launcher == "none" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problems.append(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: add --launcher pytorch, or every process trains alone")
    if launcher != "none" and not torch.cuda.is_available():
        problems.append(f"--launcher {config.launcher} needs CUDA, which this machine lacks; leave it out")
    if missing:
        problems.append(f"data not found: {', '.join(missing)}. {config.data.hint} (or pass --data-root DIR)")
    if config.pretrained.method != RANDOM_INIT:
        checkpoint = config.pretrained.get("checkpoint")
        if not checkpoint or not Path(checkpoint).is_file():
            problems.append(f"backbone not found: {checkpoint}. {config.pretrained.hint} (or pass --pretrained PATH)")
    if problems:
        raise ValueError("; ".join(problems))


def run_split(config: Config, split: Split, val_file: Path, classes: Sequence[str], resume: bool) -> SplitResult:
    """Trains and evaluates one detector."""
    importlib.import_module(REGISTRATION)
    began = time.monotonic()
    runner = Runner.from_cfg(split_config(config, split, val_file, classes, resume))
    runner.train()
    metrics = runner.val_loop.run()  # not runner.val(), which may load a checkpoint over what was just trained
    points = {task: {name: _none_if_nan(metrics[f"{task}_{name}"]) for name in METRICS} for task in TASKS}
    return SplitResult(
        **points,
        num_train_images=split.num_images,
        image_ids_sha256=split.image_ids_sha256,
        seed=split.seed,
        seconds=round(time.monotonic() - began, 1),
    )


def split_config(config: Config, split: Split, val_file: Path, classes: Sequence[str], resume: bool = False) -> Config:
    """The complete mmengine config of one split's run."""
    plain = copy.deepcopy(config.to_dict())
    root = Path(plain["data"]["root"]).resolve()
    for key, ann_file, images in (
        ("train_dataloader", split.ann_file, plain["data"]["train_images"]),
        ("val_dataloader", val_file, plain["data"]["val_images"]),
    ):
        plain[key]["dataset"] |= dict(
            metainfo=dict(classes=tuple(classes)),
            ann_file=str(ann_file.resolve()),
            data_prefix=dict(img=str(root / images)),
        )
    plain["val_evaluator"] = dict(type="CocoAP", ann_file=str(val_file.resolve()))
    plain["model"] = detector_config(config, classes)
    plain["work_dir"] = str(_split_dir(config, split.index))
    plain["experiment_name"] = f"{Path(config.work_dir).name}_split{split.index}_{time.time_ns()}"
    plain["randomness"] = dict(seed=split.seed)
    return Config(dict(plain, resume=resume, load_from=None))  # weights come from the backbone file alone


def detector_config(config: Config, classes: Sequence[str]) -> dict[str, Any]:
    """The detector with what the data, the encoder and the backbone file decide: classes, the neck's channels, weights."""
    model = copy.deepcopy(config.model.to_dict())
    backbone = model["backbone"]
    backbone["checkpoint"] = None if config.pretrained.method == RANDOM_INIT else config.pretrained.checkpoint
    encoder = build_encoder(backbone["encoder"])
    stages = backbone.get("out_stages") or encoder.stages
    model["neck"]["in_channels"] = [encoder.block_channels[encoder.stages[name][1] - 1] for name in stages]
    for head in ("bbox_head", "mask_head"):
        model["roi_head"][head]["num_classes"] = len(classes)
    return model


def _try_detector(config: Config, classes: Sequence[str]) -> None:
    """Builds the detector once, so that options which do not fit are told before the work directory is claimed."""
    importlib.import_module(REGISTRATION)
    with DefaultScope.overwrite_default_scope("mmdet"):
        MODELS.build(ConfigDict(detector_config(config, classes)))


def _pretrained_backbone(config: Config) -> PretrainedBackbone | None:
    """Reads and tries the backbone file, so that a wrong one fails now.

    Raises:
        ValueError: the file does not fit the encoder, or was trained by another rule than the config's method.
    """
    method, path = config.pretrained.method, config.pretrained.get("checkpoint")
    if method == RANDOM_INIT:
        return None
    spec = config.model.backbone.encoder
    encoder = build_encoder(spec)
    backbone = read_backbone(path)
    load_into(encoder, backbone, expected=spec)
    rule = backbone.meta.get("rule")
    rule = rule.get("type") if isinstance(rule, dict) else rule
    if isinstance(rule, str) and rule != method:
        raise ValueError(f"{path} was trained with {rule}, but the config's method is {method}; its results would be filed "
                         f"under {method}: use configs/mask_rcnn_{rule}_*.py or set pretrained.method with --cfg-options")
    name = spec if isinstance(spec, str) else spec["type"]
    return PretrainedBackbone(str(path), backbone.sha256, None if rule is None else str(rule), name)


def _identity(config: Config, pretrained: PretrainedBackbone | None) -> dict[str, Any]:
    """What makes a run this one: the config, with data and backbone by what they are and not by how they are spelled."""
    content = config.to_dict()
    content["data"]["root"] = str(Path(config.data.root).resolve())
    content["pretrained"] = dict(method=config.pretrained.method, sha256=pretrained and pretrained.sha256)
    content["world_size"] = int(os.environ.get("WORLD_SIZE", 1))  # the configs' batch sizes are per process
    return content


def _load_annotations(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads and checks both annotation files; merges categories into supercategories where the config says so."""
    data, root = config.data, Path(config.data.root)
    train = load_annotations(root / data.train_ann, root / data.train_images)
    val = load_annotations(root / data.val_ann, root / data.val_images)
    if category_names(train) != category_names(val):
        raise ValueError(f"{root / data.train_ann} and {root / data.val_ann} list different categories; they must be of one "
                         "data set")
    size = config.protocol.split_size
    if size is not None and size > len(train["images"]):
        raise ValueError(f"splits of {size} images are asked for, but {root / data.train_ann} has only "
                         f"{len(train['images'])}; set protocol.split_size with --cfg-options or use the whole set")
    if data.supercategories:
        train, val = derive(train, supercategories=True), derive(val, supercategories=True)
    return train, val


def _gather_results(config: Config, pretrained: PretrainedBackbone | None, config_sha256: str) -> RunResults:
    """Writes ``results.json`` from all splits finished by now, whichever process has run them."""
    results = RunResults(
        method=config.pretrained.method,
        dataset=config.protocol.dataset,
        config=config.config_file,
        config_sha256=config_sha256,
        pretrained=pretrained,
        requested_splits=list(range(config.protocol.num_splits)),
    )
    for index in results.requested_splits:
        file = _result_file(config, index)
        if file.exists():
            try:
                results.splits[index] = SplitResult(**json.loads(file.read_text()))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{file} is damaged ({error}); delete it to run split {index} again") from error
    results.write(Path(config.work_dir) / RESULTS_FILE)
    return results


def _make_split(config: Config, content: dict[str, Any], index: int) -> Split:
    """Writes the split's id list and annotation file beside its results."""
    protocol = config.protocol
    seed = split_seed(index, protocol.seed)
    ids = [image["id"] for image in content["images"]]
    if protocol.split_size is not None:
        ids = select_image_ids(ids, protocol.split_size, seed)
    folder = _split_dir(config, index)
    write_split(folder / "image_ids.json", ids, seed)
    ann_file = folder / "annotations_train.json"
    write_json(ann_file, derive(content, ids))
    return Split(index, seed, ann_file, len(ids), image_ids_sha256(ids))


def _result_file(config: Config, index: int) -> Path:
    return _split_dir(config, index) / "result.json"


def _split_dir(config: Config, index: int) -> Path:
    return Path(config.work_dir) / f"split_{index}"


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
