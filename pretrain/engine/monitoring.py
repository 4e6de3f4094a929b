"""Runner hooks that say how fast pretraining is, and stop it when its numbers are no numbers."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from pretrain.distributed import comm
from pretrain.engine.checkpoints import checkpoint_files, newest_intact
from pretrain.errors import RunFailedError


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs iterations and images per second, the share of time spent waiting for data, and peak memory.

    Scalars: ``train/iterations_per_second``, ``train/images_per_second`` (global batch, all processes), and of this process
    ``train/data_wait`` (0 to 1) and ``train/memory_mib`` (the most that CUDA had allocated; without CUDA the peak resident
    set). The first process's are logged. Rates are over the last ``window`` iterations, without checkpoints and what else
    happens between iterations and epochs. They are taken after all other hooks, whose work is no waiting for data, so a log
    line shows them as of the iteration before.

    Args:
        window: iterations that are averaged over, at least 1.

    Raises:
        ValueError: ``window`` is below 1.
    """

    priority = "LOWEST"

    def __init__(self, window: int = 20) -> None:
        if window < 1:
            raise ValueError(f"window of ThroughputHook is {window}; it must be at least 1")
        self._iterations: deque[tuple[int, float, float]] = deque(maxlen=window)  # images, seconds, seconds of waiting
        self._last_end = self._batch_arrival = 0.0

    def before_train_epoch(self, runner) -> None:
        """Starts the clock: the loop asks for the first batch now."""
        self._last_end = time.perf_counter()

    def between_train_iters(self, runner) -> None:
        """Starts it anew after :class:`pretrain.engine.loop.ResumableTrainLoop` has let others save checkpoints."""
        self._last_end = time.perf_counter()

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Notes when the batch has come."""
        self._batch_arrival = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Publishes the rates; the device is done by now, since the losses have been read for the log."""
        now = time.perf_counter()
        images = len(next(iter(data_batch.values()))) * comm.world_size()
        self._iterations.append((images, now - self._last_end, self._batch_arrival - self._last_end))
        self._last_end = now
        images, seconds, waiting = map(sum, zip(*self._iterations, strict=True))
        runner.message_hub.update_scalar("train/iterations_per_second", len(self._iterations) / seconds)
        runner.message_hub.update_scalar("train/images_per_second", images / seconds)
        runner.message_hub.update_scalar("train/data_wait", waiting / seconds)
        runner.message_hub.update_scalar("train/memory_mib", peak_memory_mib())


def peak_memory_mib() -> float:
    """The most MiB that CUDA tensors of this process took; without CUDA its peak resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB on Linux


class NonFiniteLossError(RunFailedError):
    """Losses or weights are NaN or infinite; training on would be of no use."""


@HOOKS.register_module()
class CheckFiniteHook(Hook):
    """Stops a run at the first loss that is not finite, and keeps weights that are not finite out of checkpoints.

    Finite weights need not be good ones: whether they give a finite loss shows in the step after the checkpoint, and until
    then :class:`~pretrain.engine.checkpoint_hook.AtomicCheckpointHook` keeps the one before it. In several processes all
    stop in the same step of pretraining, since the learner's losses are those of the global batch.
    """

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Checks the losses: the units', in detection those of each head.

        Raises:
            NonFiniteLossError: one is not finite; of several the first, the lowest unit's, is named.
        """
        losses = {key: value for key, value in outputs.items() if key.startswith("loss_")}  # bottom up
        values = torch.stack([value.detach().float() for value in losses.values()]).tolist()  # waits for the device once
        for key, value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                lr = runner.optim_wrapper.get_lr()["lr"][0]
                raise NonFiniteLossError(
                    f"the loss of {key.removeprefix('loss_')} is {value} in epoch {runner.epoch + 1}, iteration "
                    f"{runner.iter + 1}, at learning rate {lr:.4g}; {_way_back(runner.work_dir)}"
                )

    def before_save_checkpoint(self, runner, checkpoint: Mapping[str, Any]) -> None:
        """Checks what is to be saved of model and optimizer.

        Raises:
            NonFiniteLossError: something is not finite; the first is named, and nothing is saved.
        """
        for part in ("state_dict", "optimizer"):
            for name, tensor in _tensors(checkpoint.get(part, {})):
                if not tensor.isfinite().all():
                    raise NonFiniteLossError(
                        f"{name} of the checkpoint's {part} is not finite after iteration {checkpoint['meta']['iter']}, so "
                        f"it is not saved; {_way_back(runner.work_dir)}"
                    )


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested mappings and sequences, in their order, with dotted names."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping | list | tuple):
        for key, child in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(child, f"{name}.{key}" if name else str(key))


def _way_back(work_dir: str) -> str:
    advice = "lower the learning rate or lengthen the warm-up, in a new --work-dir"
    newest, _ = newest_intact(work_dir)
    if newest is None:
        return f"there is no intact checkpoint to go back to; {advice}"
    files = checkpoint_files(work_dir)
    older = files[files.index(newest) + 1 :]
    before = f" (the one before it is {older[0].name})" if older else ""
    return (f"the newest intact checkpoint is {newest}{before}, but from there --resume repeats the same numbers on the "
            f"same machine: unless the machine was the cause, {advice}")
