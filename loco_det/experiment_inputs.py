"""What a detection experiment is told on the command line, and whether all that it needs is in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    MODELS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    DefaultScope,
    Registry,
)

from loco_det.backbone_file import missing_backbone
from loco_det.detection_config import RANDOM_INIT, Split, split_config
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


def check_buildable(config: Config, classes: Sequence[str]) -> None:
    """Builds detector and optimizer once and looks up what else a run is made of, so that it is told now what does not fit.

    Args:
        config: resolved config with ``work_dir`` set; all that it names is registered.
        classes: of the data set.

    Raises:
        ValueError: an option does not fit, the batch cannot be shared by the processes, or a type is not known.
    """
    split = Split(0, 0, Path("none.json"), 1, "")
    run = split_config(config, split, Path("none.json"), classes)
    for registry, key, part in _registered_parts(run):
        with registry.switch_scope_and_registry("mmdet") as known:
            if known.get(part["type"]) is None:
                raise ValueError(f"{key}.type is {part['type']!r}, which is not known; is it misspelled, or does "
                                 "custom_imports lack its module?")
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(run.model)
        try:
            build_optim_wrapper(detector, run.optim_wrapper)
        except (TypeError, AttributeError, KeyError, AssertionError) as error:
            raise ValueError(f"options of optim_wrapper do not fit: {error}") from error


def _registered_parts(run: Config) -> Iterator[tuple[Registry, str, Mapping]]:
    """What is built only when a run begins: where it must be registered, its key in the config, and its config."""
    for name in ("train_dataloader", "val_dataloader"):
        loader = run[name]
        yield DATA_SAMPLERS, f"{name}.sampler", loader.sampler
        yield DATASETS, f"{name}.dataset", loader.dataset
        for index, step in enumerate(loader.dataset.pipeline):
            yield TRANSFORMS, f"{name}.dataset.pipeline.{index}", step
    yield LOOPS, "train_cfg", run.train_cfg
    for index, scheduler in enumerate(run.get("param_scheduler") or []):
        yield PARAM_SCHEDULERS, f"param_scheduler.{index}", scheduler
    for name, hook in run.default_hooks.items():
        if hook:
            yield HOOKS, f"default_hooks.{name}", hook
    for index, hook in enumerate(run.get("custom_hooks") or []):
        yield HOOKS, f"custom_hooks.{index}", hook


def process_problem() -> str | None:
    """What is wrong where several processes were started that do not know of each other; None if nothing is."""
    if distributed.world_size() == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return (f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but every process would do all of the work alone: start them "
                "with torchrun and without --launcher none")
    return None


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
    problems = [*filter(None, [process_problem()])]
    if missing:
        problems.append(f"data not found: {', '.join(missing)}. {data.hint} (or pass --data-root DIR)")
    problems += filter(None, [missing_backbone(config)])
    if problems:
        raise ValueError("; ".join(problems))
