"""From an experiment's config to the complete mmengine config of one run: what data, encoder and processes decide."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from loco_det.experiment_inputs import RANDOM_INIT
from pretrain import distributed
from pretrain.encoders import build_encoder

LAUNCHED = "pytorch"  # tells mmengine of several processes, which have been started already, by whichever launcher
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
    _share_batch(plain["train_dataloader"])
    if plain.get("autocast") == "float16":
        plain["optim_wrapper"]["type"] = "LossScalingOptimWrapper"
    several = distributed.world_size() > 1
    plain["launcher"] = LAUNCHED if several else "none"  # mmengine would wrap the model for one process, too
    if several:
        plain["model_wrapper_cfg"] = dict(type="DataParallelDetector")
    plain["val_evaluator"] = evaluators(config, val_file, classes)
    plain["model"] = detector_config(config, classes)
    plain["work_dir"] = str(split_dir(config, split.index))
    plain["experiment_name"] = f"{Path(config.work_dir).name}_split{split.index}_{time.time_ns()}"
    plain["randomness"] = dict(seed=split.seed)
    return Config(dict(plain, resume=checkpoint is not None, load_from=None if checkpoint is None else str(checkpoint)))


def detector_config(config: Config, classes: Sequence[str]) -> dict[str, Any]:
    """The detector with what config values and data decide: classes, normalisation, the neck's channels, weights.

    Raises:
        ValueError: ``new_layer_norm`` is unknown.
    """
    model = copy.deepcopy(config.model.to_dict())
    backbone = model["backbone"]
    backbone["checkpoint"] = None if config.pretrained.method == RANDOM_INIT else config.pretrained.checkpoint
    encoder = build_encoder(backbone["encoder"])
    stages = backbone.get("out_stages") or encoder.stages
    model["neck"]["in_channels"] = [encoder.block_channels[encoder.stages[name][1] - 1] for name in stages]
    norm = new_layer_norm(config.get("new_layer_norm", "SyncBN"))
    model["neck"]["norm_cfg"] = norm
    for head in ("bbox_head", "mask_head"):
        model["roi_head"][head] |= dict(num_classes=len(classes), norm_cfg=norm)
    return dict(model, autocast=config.get("autocast"), channels_last=config.get("channels_last", False))


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
    """The metrics of a run: COCO's AP with its options, and for Cityscapes its official AP, too."""
    metrics: list[dict[str, Any]] = [dict(type="CocoAP", ann_file=str(val_file.resolve()), **coco_options)]
    official = config.data.get("official_gt")
    if official:
        folder = Path(config.data.root).resolve() / official
        metrics.append(dict(type="CityscapesAP", ground_truth=str(folder), classes=tuple(classes)))
    return metrics


def split_dir(config: Config, index: int) -> Path:
    """Where a split's log, checkpoints and result are."""
    return Path(config.work_dir) / f"split_{index}"


def _share_batch(loader: dict[str, Any]) -> None:
    """Replaces the global batch size by this process's share."""
    batch_size, processes = loader["batch_size"], distributed.world_size()
    if batch_size < 1 or batch_size % processes:
        raise ValueError(f"train_dataloader.batch_size is {batch_size}, the batch of all processes together, which "
                         f"{processes} processes cannot share evenly; choose a multiple of {processes}")
    loader["batch_size"] = batch_size // processes
    if loader["sampler"]["type"] == "AspectRatioSampler":
        loader["sampler"]["batch_size"] = loader["batch_size"]
