"""Learning rates that follow the global batch size, and schedules that fit the run."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

LR_RULES = ("linear", "sqrt")


def scaled_lr(base_lr: float, batch_size: int, rule: str) -> float:
    """Learning rate for a global batch size.

    ``"linear"``: ``base_lr * batch_size / 256`` (Goyal et al. 2017; SimCLR, section 2.3, with 0.3, which is the LoCo paper's
    4.8 at 4096). ``"sqrt"``: ``base_lr * sqrt(batch_size)`` (SimCLR, appendix B.1, with 0.075, which is the same at 4096 and
    more at smaller batches).

    Args:
        base_lr: the rule's coefficient, above 0.
        batch_size: images a step over all processes, at least 1.
        rule: ``"linear"`` or ``"sqrt"``.

    Raises:
        ValueError: an argument is out of range or the rule unknown.
    """
    if not base_lr > 0:
        raise ValueError(f"base_lr is {base_lr}; it must be above 0")
    if batch_size < 1:
        raise ValueError(f"the global batch size is {batch_size}; it must be at least 1")
    if rule == "linear":
        return base_lr * batch_size / 256
    if rule == "sqrt":
        return base_lr * math.sqrt(batch_size)
    raise ValueError(f"unknown rule of lr_scaling {rule!r}; known are {', '.join(LR_RULES)}")


def resolve_lr(optim_wrapper_config: Mapping[str, Any], global_batch_size: int) -> dict[str, Any]:
    """Replaces ``lr_scaling`` of an optimizer wrapper's config by the learning rate that it gives.

    Args:
        optim_wrapper_config: mmengine's config with either ``optimizer.lr`` or ``lr_scaling=dict(rule=..., base_lr=...)``;
            left as it is.
        global_batch_size: images a step over all processes.

    Returns:
        A copy with ``optimizer.lr`` and without ``lr_scaling``.

    Raises:
        ValueError: both or neither are given, or ``lr_scaling`` does not fit :func:`scaled_lr`.
    """
    config = copy.deepcopy(dict(optim_wrapper_config))
    scaling = config.pop("lr_scaling", None)
    lr = config["optimizer"].get("lr")
    if scaling is None and lr is None:
        raise ValueError("optim_wrapper has no learning rate; set optimizer.lr, or lr_scaling=dict(rule='linear', "
                         "base_lr=0.3)")
    if scaling is None:
        return config
    if lr is not None:
        raise ValueError(f"optim_wrapper has both optimizer.lr={lr} and lr_scaling={scaling!r}; remove one (with "
                         "--cfg-options: optim_wrapper.lr_scaling=None)")
    if not isinstance(scaling, Mapping) or scaling.keys() != {"rule", "base_lr"}:
        raise ValueError(f"lr_scaling is {scaling!r}; it must be dict(rule=..., base_lr=...)")
    config["optimizer"]["lr"] = scaled_lr(scaling["base_lr"], global_batch_size, scaling["rule"])
    return config


def check_schedule(param_scheduler: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, max_epochs: int) -> None:
    """Refuses a schedule that does not end when training does.

    Args:
        param_scheduler: mmengine's configs; those without ``end`` run to the last epoch. None for a constant learning rate.
        max_epochs: epochs of the run.

    Raises:
        ValueError: there is no epoch, a phase begins after the last one, or the schedule ends earlier or later.
    """
    if max_epochs < 1:
        raise ValueError(f"train_cfg.max_epochs is {max_epochs}; at least 1 is needed")
    schedulers = [param_scheduler] if isinstance(param_scheduler, Mapping) else list(param_scheduler or [])
    for index, scheduler in enumerate(schedulers):
        begin = scheduler.get("begin", 0)
        if "end" not in scheduler and scheduler.get("by_epoch", True) and begin >= max_epochs:
            raise ValueError(f"{scheduler['type']} (param_scheduler.{index}) begins after epoch {begin}, but "
                             f"train_cfg.max_epochs is {max_epochs}; train longer, or shorten the warm-up before it (with "
                             f"--cfg-options: param_scheduler.{max(index - 1, 0)}.end and param_scheduler.{index}.begin)")
    ends = [scheduler["end"] for scheduler in schedulers if "end" in scheduler and scheduler.get("by_epoch", True)]
    if len(ends) == len(schedulers) > 0 and max(ends) != max_epochs:  # with an open end, one phase follows the run
        last = ends.index(max(ends))
        raise ValueError(f"{schedulers[last]['type']} (param_scheduler.{last}) ends with epoch {max(ends)}, but "
                         f"train_cfg.max_epochs is {max_epochs}; leave its end out in the config, so that it follows")
