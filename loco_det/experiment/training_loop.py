"""Schedules in iterations, resumable as those in epochs are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import LOOPS

from pretrain.engine.loop import ResumableTrainLoop


@LOOPS.register_module()
class ResumableIterTrainLoop(ResumableTrainLoop):
    """A :class:`~pretrain.engine.loop.ResumableTrainLoop` over a number of iterations, however many passes that is.

    Args:
        runner: the runner.
        dataloader: config of a data loader whose sampler takes ``iterations``, as
            :class:`~loco_det.datasets.sampling.AspectRatioSampler`.
        max_iters: iterations to train.
        options: further arguments of mmengine's loop.

    Raises:
        ValueError: ``max_iters`` is not positive.
    """

    def __init__(self, runner, dataloader: Mapping, max_iters: int, **options: Any) -> None:
        if max_iters < 1:
            raise ValueError(f"train_cfg.max_iters is {max_iters}; at least 1 iteration is needed")
        sampler = dict(dataloader["sampler"], iterations=max_iters)
        super().__init__(runner, dict(dataloader, sampler=sampler), max_epochs=1, **options)
