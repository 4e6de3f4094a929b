"""What the command line asks of a detection experiment, and whether all that it needs fits, before anything trains.

Nothing here takes seconds to import, so some imports are in functions: a missing file must not wait for torch and mmdet.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pretrain.engine.cli import load_config, note
from pretrain.options import check_known

RANDOM_INIT = "random"  # the method without a checkpoint
NEEDED_KEYS = ("model", "data", "protocol", "pretrained", "train_dataloader", "train_cfg")
DEFAULT_WORK_DIR = "work_dirs"
REGISTRATION = "loco_det.register"  # imports mmdet, which takes seconds: bad input must not wait for it
OWN_PARTS = {  # of a config: mmengine knows nothing of them, so that nothing else would notice a wrong key
    "data": ("root", "train_ann", "train_images", "val_ann", "val_images", "official_gt", "num_train_images",
             "supercategories", "hint"),
    "protocol": ("dataset", "num_splits", "split_size", "seed"),
    "pretrained": ("method", "checkpoint", "hint"),
}
ERROR_FILE = "error.txt"  # of a split that failed


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
    configs = [load_experiment(path, args, parent, NEEDED_KEYS) for path in paths]
    for config in configs:
        if args.data_root:
            use_data_root(config, args.data_root)
        if args.pretrained:
            use_pretrained(config, args.pretrained)
        check_splits(config, args.splits)
        check_files(config)
        check_split_size(config, config.data.get("num_train_images"))
        if config.pretrained.method is None and not args.work_dir:
            config.work_dir += f"_{Path(config.pretrained.checkpoint).stem}"
    work_dirs = [config.work_dir for config in configs]
    for path, work_dir in zip(paths, work_dirs, strict=True):
        if work_dirs.count(work_dir) > 1:
            raise ValueError(f"{path} shares the work directory {work_dir} with another of the configs; run it by itself")
    return configs


def load_experiment(path: str, args: argparse.Namespace, parent: str, needed_keys: Sequence[str]) -> Config:
    """As :func:`pretrain.engine.cli.load_config`.

    Raises:
        ValueError: it does not resolve, is of another kind, or has an unknown key where only ours can be.
    """
    config = load_config(path, args, parent, needed_keys)
    for part, known in OWN_PARTS.items():
        check_known(part, config.get(part, {}), known)
    return config


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


def check_split_size(config: Config, images: int | None) -> None:
    """Checks that a split fits into a training set of so many images, or of a number that is not known yet.

    Raises:
        ValueError: it does not.
    """
    size = config.protocol.split_size
    if None not in (size, images) and size > images:
        raise ValueError(f"splits of {size} images are asked for, but {Path(config.data.root) / config.data.train_ann} has "
                         f"only {images}; set protocol.split_size with --cfg-options or use the whole set")


def check_processes() -> None:
    """Checks that processes which were started together know of each other.

    Raises:
        ValueError: they do not.
    """
    from pretrain.distributed import comm

    if comm.world_size() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but every process would do all of the work alone: "
                         "start them with torchrun and without --launcher none")


def missing_data(config: Config, *keys: str) -> str | None:
    """Missing files and folders under these keys of ``data``, and where to get it; None if all is."""
    data, missing = config.data, []
    for key in keys:
        if not isinstance(data.get(key), str | None):  # --cfg-options makes lists of values with commas
            raise ValueError(f"data.{key} is {data[key]!r}, not a path; give files names without commas")
        if data.get(key) and not (Path(data.root) / data[key]).exists():
            missing.append(str(Path(data.root) / data[key]))
    return f"data not found: {', '.join(missing)}. {data.hint} (or pass --data-root DIR)" if missing else None


def check_files(config: Config) -> None:
    """Checks within a moment that every file the run needs is in its place.

    Raises:
        ValueError: names all that is missing, and where to get it.
    """
    problem = missing_data(config, "train_ann", "train_images", "val_ann", "val_images", "official_gt")
    problems = [problem] if problem and "synthetic_data" not in config else []  # that one is generated
    if config.pretrained.method != RANDOM_INIT:
        checkpoint = config.pretrained.get("checkpoint")
        if not checkpoint:
            problems.append(f"pass a backbone file with --pretrained FILE. {config.pretrained.hint}")
        elif not Path(checkpoint).is_file():
            problems.append(f"backbone not found: {checkpoint}. {config.pretrained.hint} (or pass --pretrained FILE)")
    if problems:
        raise ValueError("; ".join(problems))


def check_backbone(config: Config) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Reads and tries the backbone file, so that a wrong one fails now.

    A config that takes any file gets the file's encoder (in place).

    Returns:
        The identity of the pretraining (:mod:`pretrain.results.method`); and of the file ``path``, ``sha256`` and ``argv``,
        the command line that exported it, None where the file does not say. Of random initialisation there is no file.

    Raises:
        ValueError: the file does not fit the encoder, or was trained by another rule than the config's.
    """
    from pretrain.encoders import build_encoder
    from pretrain.engine.checkpoints import load_into, read_backbone
    from pretrain.results.method import SUPERVISED, backbone_identity, random_identity

    method = config.pretrained.method
    if method == RANDOM_INIT:
        return random_identity(_encoder(config), None), None
    backbone = read_backbone(config.pretrained.checkpoint)
    use_encoder(config, backbone.encoder)
    load_into(build_encoder(_encoder(config)), backbone, expected=_encoder(config))
    rule = backbone.meta.get("method", {}).get("rule", {}).get("type")
    if None not in (rule, method) and rule != method:
        raise ValueError(f"{backbone.path} was trained with the rule {rule}, but the config is one for {method}; use a "
                         "config that takes any backbone file, such as configs/mask_rcnn_coco.py")
    source = SUPERVISED if method == SUPERVISED else "file"
    identity = backbone_identity(backbone.meta, backbone.path, backbone.sha256, _encoder(config), source)
    if rule is None and method != SUPERVISED:
        note(f"{backbone.path} does not say how it was trained; results are filed under {identity['method']['label']}")
    return identity, dict(path=str(backbone.path), sha256=backbone.sha256, argv=backbone.meta.get("argv"))


def _encoder(config: Config) -> Any:
    return config.model.backbone.to_dict()["encoder"]


def check_buildable(run: Config) -> None:
    """Builds detector and optimizer once, so that an option that does not fit is found now.

    Args:
        run: the complete config of a run; all that it names is registered.

    Raises:
        ValueError: an option does not fit.
    """
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(run.model)
        try:
            build_optim_wrapper(detector, run.optim_wrapper)
        except (TypeError, AttributeError, KeyError, AssertionError) as error:
            raise ValueError(f"options of optim_wrapper do not fit: {error}") from error
