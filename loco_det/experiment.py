"""One detection config over its splits: checked first, then trained and evaluated split by split, resumable."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from loco_det.datasets.annotations import category_names, derive, load_annotations, write_annotations
from loco_det.datasets.splits import image_ids_sha256, select_image_ids, split_seed, write_split
from loco_det.evaluation.results import METRICS, RESULTS_FILE, TASKS, PretrainedBackbone, RunResults, SplitResult
from pretrain.checkpoints import load_into, read_backbone
from pretrain.cli import note
from pretrain.data.synthetic import SyntheticConfig, ensure_synthetic_dataset
from pretrain.encoders import build_encoder
from pretrain.work_dir import claim_work_dir, write_json

SPLIT_RESULT = "result.json"
RANDOM = "random"  # the method without a checkpoint


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
    pretrained = _pretrained_backbone(config)
    train_content, val_content = _load_annotations(config)
    results = _begin_results(config, pretrained)
    val_file = write_annotations(Path(config.work_dir) / "annotations_val.json", val_content)
    todo = [index for index in splits if index not in results.splits]
    for index in todo:
        split = _make_split(config, train_content, index)
        outcome = run_split(config, split, val_file, category_names(train_content), resume)
        write_json(_split_dir(config, index) / SPLIT_RESULT, asdict(outcome))
        results.splits[index] = outcome
        results.write(Path(config.work_dir) / RESULTS_FILE)
        note(f"split {index}: " + ", ".join(f"{task} AP {getattr(outcome, task)['AP']:.2f}" for task in TASKS))
    results.write(Path(config.work_dir) / RESULTS_FILE)
    return results


def use_data_root(config: Config, data_root: str) -> None:
    """Makes ``config`` read its data below ``data_root`` (in place)."""
    config.data.root = data_root
    config.pop("synthetic_data", None)


def use_pretrained(config: Config, path: str) -> None:
    """Makes ``config`` start from the backbone file ``path`` (in place).

    Raises:
        ValueError: the config is one of random initialisation.
    """
    if config.pretrained.method == RANDOM:
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
    if "synthetic_data" in config:
        options = dict(config.synthetic_data)
        ensure_synthetic_dataset(Path(options.pop("root")), SyntheticConfig(**options))
    root = Path(config.data.root)
    wanted = [config.data.train_ann, config.data.train_images, config.data.val_ann, config.data.val_images]
    missing = [str(root / path) for path in wanted if not (root / path).exists()]
    problems = []
    if config.get("launcher", "none") != "none" and not torch.cuda.is_available():
        problems.append(f"--launcher {config.launcher} needs CUDA, which this machine lacks; leave it out")
    if missing:
        problems.append(f"data not found: {', '.join(missing)}. {config.data.hint} (or pass --data-root DIR)")
    if config.pretrained.method != RANDOM:
        checkpoint = config.pretrained.get("checkpoint")
        if not checkpoint or not Path(checkpoint).is_file():
            problems.append(f"backbone not found: {checkpoint}. {config.pretrained.hint} (or pass --pretrained PATH)")
    if problems:
        raise ValueError("; ".join(problems))


def run_split(config: Config, split: Split, val_file: Path, classes: Sequence[str], resume: bool) -> SplitResult:
    """Trains and evaluates one detector."""
    from mmengine.runner import Runner

    import loco_det.register  # noqa: F401  here, since mmdet takes seconds to import and bad input must not wait for it

    began = time.monotonic()
    runner = Runner.from_cfg(split_config(config, split, val_file, classes, resume))
    runner.train()
    metrics = runner.val()
    points = {
        task: {name: _none_if_nan(metrics[f"{task}_{name}"]) for name in METRICS}
        for task in TASKS
    }
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
    metainfo = dict(classes=tuple(classes))
    for key, ann_file, images in (
        ("train_dataloader", split.ann_file, plain["data"]["train_images"]),
        ("val_dataloader", val_file, plain["data"]["val_images"]),
    ):
        plain[key]["dataset"] |= dict(
            metainfo=metainfo, ann_file=str(ann_file.resolve()), data_prefix=dict(img=str(root / images))
        )
    plain["val_evaluator"] = dict(type="CocoAP", ann_file=str(val_file.resolve()))
    backbone = plain["model"]["backbone"]
    backbone["checkpoint"] = plain["pretrained"].get("checkpoint")
    encoder = build_encoder(backbone["encoder"])
    plain["model"]["neck"]["in_channels"] = [encoder.block_channels[end - 1] for _, end in encoder.stages.values()]
    for head in ("bbox_head", "mask_head"):
        plain["model"]["roi_head"][head]["num_classes"] = len(classes)
    plain["work_dir"] = str(_split_dir(config, split.index))
    plain["experiment_name"] = f"{Path(plain['work_dir']).parent.name}_split{split.index}_{time.time_ns()}"
    plain["randomness"] = dict(seed=split.seed)
    plain["resume"] = resume
    return Config(plain)


def _pretrained_backbone(config: Config) -> PretrainedBackbone | None:
    """Reads and tries the backbone file, so that a wrong one fails now."""
    if config.pretrained.method == RANDOM:
        return None
    spec = config.model.backbone.encoder.to_dict()
    backbone = read_backbone(config.pretrained.checkpoint)
    load_into(build_encoder(spec), backbone, expected=spec)
    rule = backbone.meta.get("rule")
    rule = rule.get("type") if isinstance(rule, dict) else rule
    return PretrainedBackbone(str(config.pretrained.checkpoint), backbone.sha256, rule and str(rule), spec["type"])


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


def _begin_results(config: Config, pretrained: PretrainedBackbone | None) -> RunResults:
    """Claims the work directory and gathers the splits that are finished there."""
    content = config.to_dict()
    content["pretrained"]["sha256"] = pretrained and pretrained.sha256
    results = RunResults(
        method=config.pretrained.method,
        dataset=config.protocol.dataset,
        config=config.config_file,
        config_sha256=claim_work_dir(config.work_dir, content),
        pretrained=pretrained,
        requested_splits=list(range(config.protocol.num_splits)),
    )
    for index in results.requested_splits:
        file = _split_dir(config, index) / SPLIT_RESULT
        if file.exists():
            results.splits[index] = SplitResult(**json.loads(file.read_text()))
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
    ann_file = write_annotations(folder / "annotations_train.json", derive(content, ids))
    return Split(index, seed, ann_file, len(ids), image_ids_sha256(ids))


def _split_dir(config: Config, index: int) -> Path:
    return Path(config.work_dir) / f"split_{index}"


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
