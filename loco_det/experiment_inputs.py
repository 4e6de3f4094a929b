"""What a detection experiment is told on the command line, and whether all that it needs is in its place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from loco_det.backbone_file import missing_backbone
from loco_det.detection_config import RANDOM_INIT
from pretrain import distributed
from pretrain.data.synthetic import ensure_configured


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
    """Checks within a moment that every file the run needs is in its place, and draws the data set that it draws itself.

    Raises:
        ValueError: names all that is missing, and where to get it.
    """
    with distributed.first_process_first():
        ensure_configured(config)
    data, root = config.data, Path(config.data.root)
    wanted = [data.train_ann, data.train_images, data.val_ann, data.val_images, *filter(None, [data.get("official_gt")])]
    missing = [str(root / path) for path in wanted if not (root / path).exists()]
    problems = []
    if distributed.world_size() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        problems.append(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}: start several processes with torchrun, or every process "
                        "trains alone")
    if missing:
        problems.append(f"data not found: {', '.join(missing)}. {data.hint} (or pass --data-root DIR)")
    problems += filter(None, [missing_backbone(config)])
    if problems:
        raise ValueError("; ".join(problems))
