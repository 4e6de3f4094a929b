"""From an experiment's config to the complete mmengine config of one run: what data, encoder and processes decide."""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from loco_det.experiment.inputs import RANDOM_INIT
from pretrain.distributed import comm
from pretrain.encoders import Encoder, build_encoder

LAUNCHED = "pytorch"  # for mmengine: there are several processes, which have been started already, by whichever launcher
OFFICIAL = "official"  # the AP of cityscapesscripts, beside COCO's
PYRAMID_STRIDES = (4, 8, 16, 32)  # of what mmdet's feature pyramids are made of
NEW_LAYER_NORMS: Mapping[str | None, dict | None] = {
    "SyncBN": dict(type="SyncBN", requires_grad=True),
    "GN": dict(type="GN", num_groups=32, requires_grad=True),
    "none": None,
    None: None,
}


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


def split_config(
    config: Config, split: Split, val_file: Path, classes: Sequence[str], checkpoint: Path | None = None
) -> Config:
    """The complete config of one split's run, of this process's share of it.

    Args:
        config: resolved config of the shape of ``configs/mask_rcnn_*.py``, with ``work_dir`` set.
        split: what to train on.
        val_file: annotations to evaluate on.
        classes: names, in the order of the annotation files' categories.
        checkpoint: of this split's run, to continue from; None to start it.

    Raises:
        ValueError: the batch cannot be shared by the processes, or a value is not one of those it may have.
    """
    plain = copy.deepcopy(config.to_dict())
    data, root = plain["data"], Path(plain["data"]["root"]).resolve()
    for key, ann_file, images in (
        ("train_dataloader", split.ann_file, data["train_images"]),
        ("val_dataloader", val_file, data["val_images"]),
    ):
        plain[key]["dataset"] |= dataset_options(ann_file, root / images, classes)
    for step in plain["train_dataloader"]["dataset"]["pipeline"]:
        if step["type"] == "LoadAnnotations":
            step["with_mask"] = "segm" in detector_tasks(plain["model"])
    _share_batch(plain["train_dataloader"])
    if plain.get("autocast") == "float16":
        plain["optim_wrapper"]["type"] = "LossScalingOptimWrapper"
    several = comm.world_size() > 1
    plain["launcher"] = LAUNCHED if several else "none"  # mmengine would wrap the model for one process, too
    if several:
        plain["model_wrapper_cfg"] = dict(type="DataParallelDetector")
    plain["val_evaluator"] = evaluators(config, val_file, classes)
    plain["model"] = detector_config(config, classes)
    plain["work_dir"] = str(split_dir(config, split.index))
    plain["experiment_name"] = f"{Path(config.work_dir).name}_split{split.index}_{time.time_ns()}"
    plain["randomness"] = dict(seed=split.seed)
    resuming = dict(resume=checkpoint is not None, load_from=None if checkpoint is None else str(checkpoint))
    return Config(dict(plain, **resuming), format_python_code=False)  # yapf would take seconds for logs, dumps, checkpoints


def detector_config(config: Config, classes: Sequence[str]) -> dict[str, Any]:
    """The detector with what config values and data decide: classes, normalisation, the pyramid's inputs, weights.

    Raises:
        ValueError: ``new_layer_norm`` is unknown, or the encoder has too few stages for the pyramid.
    """
    model = copy.deepcopy(config.model.to_dict())
    backbone = model["backbone"]
    backbone["checkpoint"] = None if config.pretrained.method == RANDOM_INIT else config.pretrained.get("checkpoint")
    encoder = build_encoder(backbone["encoder"])
    if not backbone.get("out_stages"):
        backbone |= _pyramid_inputs(encoder)
    model["neck"]["in_channels"] = [encoder.block_channels[encoder.stages[name][1] - 1] for name in backbone["out_stages"]]
    norm = new_layer_norm(config.get("new_layer_norm", "SyncBN"))
    model["neck"]["norm_cfg"] = norm
    for _, head in _heads(model, "bbox_head", "mask_head"):
        head |= dict(num_classes=len(classes), norm_cfg=norm)
    # only where set: mmdet's own detectors know neither
    return model | {key: config[key] for key in ("autocast", "channels_last") if config.get(key)}


def detector_tasks(model: Mapping[str, Any]) -> tuple[str, ...]:
    """What a detector predicts: ``"bbox"`` if it has a box head, ``"segm"`` if it has a mask or panoptic head.

    Args:
        model: its config, as plain data.

    Raises:
        ValueError: it has no such head.
    """
    found = {name for name, _ in _heads(model, "bbox_head", "mask_head", "panoptic_head")}
    tasks = ("bbox",) * ("bbox_head" in found) + ("segm",) * bool(found - {"bbox_head"})
    if not tasks:
        raise ValueError(f"the detector {model.get('type')} has no bbox_head, mask_head or panoptic_head: it predicts "
                         "neither boxes nor masks")
    return tasks


def measured_tasks(config: Config) -> tuple[str, ...]:
    """What has an AP: the detector's tasks, and ``"official"`` where its masks are evaluated as Cityscapes does, too."""
    tasks = detector_tasks(config.model.to_dict())
    return (*tasks, OFFICIAL) if "segm" in tasks and config.data.get("official_gt") else tasks


def _heads(model: Mapping[str, Any], *names: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configs below a detector's that have one of these names, with the name; of a list, as a cascade has, each."""
    for key, value in model.items():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Mapping):
                if key in names:
                    yield key, child
                yield from _heads(child, *names)


def _pyramid_inputs(encoder: Encoder) -> dict[str, Any]:
    """Backbone options for a feature pyramid: the stages of strides nearest to its own, resized where they differ.

    Of PResNet-50, with strides 4, 6.2, 9.3, 14, 18.7 and 28, these are res2, res4, res5 and res7. The papers transfer no
    such encoder, the choice is ours.
    """
    strides = {name: encoder.block_strides[end - 1] for name, (_, end) in encoder.stages.items()}
    if len(strides) < len(PYRAMID_STRIDES):
        raise ValueError(f"the encoder has {len(strides)} stages, but a feature pyramid is made of {len(PYRAMID_STRIDES)}; "
                         "set model.backbone.out_stages, and a neck that takes them")
    stages = min(itertools.combinations(strides, len(PYRAMID_STRIDES)), key=lambda names: sum(
        abs(math.log(strides[name] / stride)) for name, stride in zip(names, PYRAMID_STRIDES, strict=True)))
    same = all(strides[name] == stride for name, stride in zip(stages, PYRAMID_STRIDES, strict=True))
    return dict(out_stages=stages, out_strides=None if same else PYRAMID_STRIDES)


def new_layer_norm(name: str | None) -> dict[str, Any] | None:
    """mmcv's config of the normalisation after every new layer of FPN, box head and mask head.

    Raises:
        ValueError: it is unknown.
    """
    if name not in NEW_LAYER_NORMS:
        raise ValueError(f"new_layer_norm is {name!r}; 'SyncBN', 'GN' or 'none' is needed")
    return copy.deepcopy(NEW_LAYER_NORMS[name])


def dataset_options(ann_file: Path, images: Path, classes: Sequence[str]) -> dict[str, Any]:
    """What a data set's config gets to read these annotations and images."""
    return dict(metainfo=dict(classes=tuple(classes)), ann_file=str(ann_file.resolve()), data_prefix=dict(img=str(images)))


def evaluators(config: Config, val_file: Path, classes: Sequence[str], **coco_options: Any) -> list[dict[str, Any]]:
    """The metrics of a run: COCO's AP with its options, and of masks on Cityscapes its official AP, too."""
    tasks = detector_tasks(config.model.to_dict())
    metrics: list[dict[str, Any]] = [dict(type="CocoAP", ann_file=str(val_file.resolve()), tasks=tasks, **coco_options)]
    if OFFICIAL in measured_tasks(config):
        folder = Path(config.data.root).resolve() / config.data.official_gt
        metrics.append(dict(type="CityscapesAP", ground_truth=str(folder), classes=tuple(classes)))
    return metrics


def split_dir(config: Config, index: int) -> Path:
    """Where a split's log, checkpoints and record are."""
    return Path(config.work_dir) / f"split_{index}"


def _share_batch(loader: dict[str, Any]) -> None:
    """Replaces the global batch size by this process's share."""
    batch_size, processes = loader["batch_size"], comm.world_size()
    if batch_size < 1 or batch_size % processes:
        raise ValueError(f"train_dataloader.batch_size is {batch_size}, the batch of all processes together, which "
                         f"{processes} processes cannot share evenly; choose a multiple of {processes}")
    loader["batch_size"] = batch_size // processes
    if loader["sampler"]["type"] == "AspectRatioSampler":
        loader["sampler"]["batch_size"] = loader["batch_size"]
