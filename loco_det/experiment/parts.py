"""Whether a run's parts fit together, found out by building them before anything is claimed or trained."""

from __future__ import annotations

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

from loco_det.experiment.config import Split, split_config


def check_buildable(config: Config, classes: Sequence[str]) -> None:
    """Builds detector and optimizer once and looks up what else a run is made of, so that what does not fit is found now.

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
