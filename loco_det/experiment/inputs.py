"""What the command line asks of a detection experiment, and whether all that it needs is in its place.

Nothing here takes seconds to import: a missing file must not wait for a detector's libraries.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pretrain.engine.cli import load_config

RANDOM_INIT = "random"  # the method without a checkpoint
NEEDED_KEYS = ("model", "data", "protocol", "pretrained", "train_dataloader", "train_cfg")
DEFAULT_WORK_DIR = "work_dirs"


def detection_configs(args: argparse.Namespace) -> list[Config]:
    """The configs with the command line's overrides.

    The default work directory is named after the config, and of one that takes any backbone file after that, too. Of several
    configs each has a directory of its own below ``--work-dir``.

    Raises:
        ValueError: one does not resolve, is of another kind or given twice, an option does not fit it, or files are missing.
    """
    paths, parent = args.configs, DEFAULT_WORK_DIR
    if len(paths) > 1:
        parent, args.work_dir = args.work_dir or parent, None
    configs = [load_config(path, args, parent, NEEDED_KEYS) for path in paths]
    for config in configs:
        if args.data_root:
            use_data_root(config, args.data_root)
        if args.pretrained:
            use_pretrained(config, args.pretrained)
        check_splits(config, args.splits)
        check_files(config)
        if config.pretrained.method is None and not args.work_dir:
            config.work_dir += f"_{Path(config.pretrained.checkpoint).stem}"
    work_dirs = [config.work_dir for config in configs]
    for path, work_dir in zip(paths, work_dirs, strict=True):
        if work_dirs.count(work_dir) > 1:
            raise ValueError(f"{path} shares the work directory {work_dir} with another of the configs; run it by itself")
    return configs


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
        raise ValueError(f"--pretrained {path}: this config starts from random weights; use one that takes any backbone "
                         "file, such as configs/mask_rcnn_coco.py")
    config.pretrained.checkpoint = path


def use_encoder(config: Config, encoder: Mapping[str, Any] | None) -> None:
    """Makes a config that takes any backbone file have the encoder that the file names, if it does (in place)."""
    if config.pretrained.method is None and encoder is not None:
        config.model.backbone.encoder = dict(encoder)


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


def process_problem() -> str | None:
    """What is wrong where several processes were started that do not know of each other; None if nothing is."""
    from pretrain.distributed import comm

    if comm.world_size() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return (f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but every process would do all of the work alone: start them "
                "with torchrun and without --launcher none")
    return None


def check_files(config: Config) -> None:
    """Checks within a moment that every file the run needs is in its place.

    Raises:
        ValueError: names all that is missing, and where to get it.
    """
    data, root = config.data, Path(config.data.root)
    wanted = [data.train_ann, data.train_images, data.val_ann, data.val_images, *filter(None, [data.get("official_gt")])]
    missing = [str(root / path) for path in wanted if not (root / path).exists()]
    problems = []
    if missing and "synthetic_data" not in config:  # that one is generated
        problems.append(f"data not found: {', '.join(missing)}. {data.hint} (or pass --data-root DIR)")
    if config.pretrained.method != RANDOM_INIT:
        checkpoint = config.pretrained.get("checkpoint")
        if not checkpoint:
            problems.append(f"pass a backbone file with --pretrained FILE. {config.pretrained.hint}")
        elif not Path(checkpoint).is_file():
            problems.append(f"backbone not found: {checkpoint}. {config.pretrained.hint} (or pass --pretrained FILE)")
    if problems:
        raise ValueError("; ".join(problems))
