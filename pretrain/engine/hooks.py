"""Runner hooks that pretraining and detection share: saving, records, speed, and what stops a run."""

from __future__ import annotations

import json
import math
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor
from tqdm import tqdm

from pretrain.data.dataset import MAX_CORRUPT_SHARE, check_corrupt
from pretrain.distributed import comm
from pretrain.engine.checkpoints import (
    RANDOM_STATES_KEY,
    checkpoint_files,
    checkpoint_name,
    complete,
    partial_path,
    point_to_last,
    remove_partial,
    remove_superseded,
)
from pretrain.engine.loop import ResumableTrainLoop, random_state, set_random_state
from pretrain.errors import RunFailedError, RunInterrupted


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):
    """Saves everything that a run continues from bit for bit: whole files only, after full epochs and in between.

    A checkpoint between two epochs' ends goes when two newer ones are complete: the newest may be of weights from which no
    finite loss comes any more, the one before it has given at least one. The end of the run leaves none in between. When a
    stop signal has come, a checkpoint is written after the current iteration and the run ends with
    :class:`~pretrain.errors.RunInterrupted`. Files are written by the main process; where it cannot, all processes stop.
    Needs :class:`~pretrain.engine.loop.ResumableTrainLoop`.

    Args:
        interval: epochs between two checkpoints of full epochs; the last epoch always has one.
        max_keep_ckpts: how many checkpoints of full epochs are kept, -1 for all; the run before its end keeps at least the
            last two checkpoints of either kind.
        interval_iters: iterations between two checkpoints in between, counted from the start of the run; None for none.
        interval_minutes: time after any checkpoint at which one in between is due; None for none.

    Raises:
        ValueError: an option is not positive.
    """

    priority = "LOWEST"  # what other hooks do at the end of an iteration or epoch is done

    def __init__(
        self,
        interval: int = 1,
        max_keep_ckpts: int = -1,
        interval_iters: int | None = None,
        interval_minutes: float | None = None,
    ) -> None:
        for name, value in dict(interval=interval, interval_iters=interval_iters, interval_minutes=interval_minutes).items():
            if value is not None and value <= 0:
                raise ValueError(f"{name} of AtomicCheckpointHook is {value}; it must be positive")
        if max_keep_ckpts == 0 or max_keep_ckpts < -1:
            raise ValueError(f"max_keep_ckpts of AtomicCheckpointHook is {max_keep_ckpts}; -1 (all) or at least 1 is needed")
        self.interval = interval
        self.max_keep_ckpts = max_keep_ckpts
        self.interval_iters = interval_iters
        self.interval_minutes = interval_minutes
        self._random_states: list[dict] | None = None  # of the checkpoint that is read or written
        self._last_saved = 0.0  # time.monotonic()
        self._previous: Path | None = None  # the checkpoint that was saved last, or that the run was resumed from

    def check(self, runner) -> None:
        """Refuses, with a ``ValueError``, a run whose loop never asks for checkpoints."""
        if not isinstance(runner.train_loop, ResumableTrainLoop):
            raise ValueError(f"AtomicCheckpointHook does not work with the loop {type(runner.train_loop).__name__}; set "
                             "train_cfg.type=ResumableTrainLoop or default_hooks.checkpoint.type=CheckpointHook")

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keeps the random states until the runner, which may seed again, is ready to train."""
        self._random_states = checkpoint.get(RANDOM_STATES_KEY)

    def before_train(self, runner) -> None:
        """Restores this process's random state, and clears away what a killed run has left.

        Raises:
            RunFailedError: processes were resumed from different checkpoints, as where they see different files; or the
                main process cannot clear away (there its own error).
        """
        self.check(runner)
        _do_in_main_process(lambda: _clear_away(runner))
        lowest, highest = comm.max_over_ranks(torch.tensor([-runner.iter, runner.iter])).tolist()
        if -lowest != highest:
            raise RunFailedError(f"processes resume at iterations {-lowest} to {highest}; all of them must see the same "
                                 f"files in {runner.work_dir}")
        self._last_saved = time.monotonic()
        if runner.iter > 0:
            self._previous = self._path(runner)
        if self._random_states is None:
            return
        if comm.rank() < len(self._random_states):
            set_random_state(self._random_states[comm.rank()])
        else:
            runner.logger.warning(f"the checkpoint is of {len(self._random_states)} processes: process {comm.rank()} starts "
                                  "with fresh random numbers")

    def between_train_iters(self, runner) -> None:
        """Saves what is due; ``runner.epoch`` and ``runner.iter`` are what the run is resumed with.

        Raises:
            RunInterrupted: a stop signal has come to any process and the run is not finished.
            RunFailedError: the main process cannot save (there its own error).
        """
        stop_signal, time_is_up = self._agree(runner)
        iterations_are_up = self.interval_iters is not None and runner.iter % self.interval_iters == 0
        if not (self._epoch_is_due(runner) or stop_signal or time_is_up or iterations_are_up):
            return
        path = self._path(runner)
        self._random_states = comm.gather_objects(random_state())
        _do_in_main_process(lambda: self._write(runner, path))
        self._previous = path
        self._last_saved = time.monotonic()
        if stop_signal and not _finished(runner):
            comm.barrier()  # a launcher may kill all processes once the first of them has ended
            raise RunInterrupted(
                f"stopped by {signal.Signals(stop_signal).name} after iteration {runner.iter} of {runner.max_iters}; "
                f"{Path(runner.work_dir) / path.name} is saved, continue with --resume", stop_signal
            )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Adds the random states, and keeps the checkpoint plain data.

        mmengine would pickle objects of its message hub, the smoothed histories of logged values, into the file. Without
        them anybody can load it with ``weights_only=True``; a resumed run smooths its log again.
        """
        checkpoint[RANDOM_STATES_KEY] = self._random_states
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def _agree(self, runner) -> tuple[int, int]:
        """The stop signal of any process (0 for none), and whether by the main process's clock a checkpoint is due."""
        minutes = (time.monotonic() - self._last_saved) / 60
        time_is_up = comm.rank() == 0 and self.interval_minutes is not None and minutes >= self.interval_minutes
        requests = torch.tensor([runner.train_loop.stop_request.signum, int(time_is_up)])
        return tuple(comm.max_over_ranks(requests).tolist())

    def _epoch_is_due(self, runner) -> bool:
        at_epoch_end = runner.iter == runner.epoch * len(runner.train_dataloader)
        return at_epoch_end and (_finished(runner) or runner.epoch % self.interval == 0)

    def _path(self, runner) -> Path:
        """Where the run as it is now is saved."""
        within = () if self._epoch_is_due(runner) else (runner.iter,)
        return Path(runner.work_dir).absolute() / checkpoint_name(runner.epoch, *within)

    def _write(self, runner, path: Path) -> None:
        runner.save_checkpoint(str(path.parent), partial_path(path).name, meta=dict(epoch=runner.epoch, iter=runner.iter))
        complete(path)
        point_to_last(path)
        remove_superseded(path, self.max_keep_ckpts, None if _finished(runner) else self._previous)
        runner.logger.info(f"saved {path.name} at epoch {runner.epoch}, iteration {runner.iter}")


def _finished(runner) -> bool:
    return runner.epoch == runner.max_epochs


def _clear_away(runner) -> None:
    for name in remove_partial(runner.work_dir):
        runner.logger.info(f"removed {name}, a file that an earlier run could not finish")


def _do_in_main_process(action: Callable[[], None]) -> None:
    """Lets the main process act, and raises its error in all of them: the others would wait for it without end.

    Raises:
        RunFailedError: ``action`` failed in the main process, which raises the error itself.
    """
    try:
        comm.broadcast_from_rank0(action)
    except ValueError as error:
        if comm.rank() == 0:
            raise
        raise RunFailedError(str(error)) from error


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes into every checkpoint which run it is of, and how far that has come.

    Args:
        key: where in the checkpoint.
        record: plain data; ``epoch`` and ``iter`` are added.
    """

    def __init__(self, key: str, record: Mapping[str, Any]) -> None:
        self.key = key
        self.record = json.loads(json.dumps(record))  # ConfigDict -> dict

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`mmengine.hooks.Hook`."""
        meta = checkpoint["meta"]
        checkpoint[self.key] = {**self.record, "epoch": meta["epoch"], "iter": meta["iter"]}


class NonFiniteLossError(RunFailedError):
    """Losses or weights are NaN or infinite; continuing is pointless."""


@HOOKS.register_module()
class CheckFiniteHook(Hook):
    """Stops a run at the first loss that is not finite, and keeps weights that are not finite out of checkpoints.

    Finite weights need not be good ones: whether they give a finite loss shows in the step after the checkpoint, and until
    then :class:`AtomicCheckpointHook` keeps the one before it. In several processes all stop in the same step of
    pretraining, since the learner's losses are those of the global batch.
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
                    f"{runner.iter + 1}, at learning rate {lr:.4g}; {_recovery_hint(runner.work_dir)}"
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
                        f"it is not saved; {_recovery_hint(runner.work_dir)}"
                    )


def _tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested mappings and sequences, in their order, with dotted names."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping | list | tuple):
        for key, child in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(child, f"{name}.{key}" if name else str(key))


def _recovery_hint(work_dir: str) -> str:
    newest = ", ".join(file.name for file in checkpoint_files(work_dir)[:2]) or "none"
    return (f"newest checkpoints: {newest}. --resume repeats the same numbers on the same machine: unless that was the "
            "cause, lower the learning rate or lengthen the warm-up, in a new --work-dir")


@HOOKS.register_module()
class CorruptImagesHook(Hook):
    """Lets :func:`pretrain.data.dataset.check_corrupt` log corrupt images and stop the run when they are too many.

    Args:
        max_share: largest tolerated share of the data set, 0 to 1.
        interval: iterations between two checks; the last iteration of every epoch has one, too.
    """

    def __init__(self, max_share: float = MAX_CORRUPT_SHARE, interval: int = 20) -> None:
        self.max_share = max_share
        self.interval = interval
        self._reported: set[int] = set()

    def before_train(self, runner) -> None:
        """Reports what the data set already met while it was built (a cache, for example)."""
        self._check(runner)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Reports what the workers met meanwhile, before a checkpoint of this iteration is written."""
        epoch_ends = self.end_of_epoch(runner.train_dataloader, batch_idx) or self.is_last_train_iter(runner)
        if epoch_ends or self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def _check(self, runner) -> None:
        self._reported = check_corrupt(runner.train_dataloader.dataset, self._reported, self.max_share)


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs images per second and peak memory, beside the ``time`` and ``data_time`` of mmengine's IterTimerHook.

    ``train/images_per_second`` is of the global batch, over the last ``window`` iterations without checkpoints and what else
    happens between iterations and epochs; it is taken after all other hooks, so a log line shows it as of the iteration
    before. ``train/memory_mib`` is the most that CUDA had allocated in this process; without CUDA the peak resident set.

    Args:
        window: iterations that are averaged over.
    """

    priority = "LOWEST"

    def __init__(self, window: int = 20) -> None:
        self._iterations: deque[tuple[int, float]] = deque(maxlen=window)  # images, seconds
        self._last_end = 0.0

    def before_train_epoch(self, runner) -> None:
        """Starts the clock: the loop asks for the first batch now."""
        self._last_end = time.perf_counter()

    def between_train_iters(self, runner) -> None:
        """Starts it again after :class:`pretrain.engine.loop.ResumableTrainLoop` has let others save checkpoints."""
        self._last_end = time.perf_counter()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Publishes both; the device is done by now, since the losses have been read for the log."""
        now = time.perf_counter()
        self._iterations.append((len(next(iter(data_batch.values()))) * comm.world_size(), now - self._last_end))
        self._last_end = now
        images, seconds = map(sum, zip(*self._iterations, strict=True))
        runner.message_hub.update_scalar("train/images_per_second", images / seconds)
        runner.message_hub.update_scalar("train/memory_mib", peak_memory_mib())


def peak_memory_mib() -> float:
    """The most MiB that CUDA tensors of this process took; without CUDA its peak resident set."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB on Linux


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Progress bars of training and evaluation on stderr, only on a terminal and in the main process."""

    priority = "VERY_LOW"

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def before_train(self, runner) -> None:
        """Opens the bar at the iteration that a resumed run continues from."""
        self._open(runner, "training", runner.max_iters, runner.iter)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advances the bar and shows the loss."""
        self._bar.update()
        if not self._bar.disable and outputs and "loss" in outputs:
            self._bar.set_postfix(loss=f"{outputs['loss'].item():.3f}")

    def after_train(self, runner) -> None:
        """Closes the bar."""
        self._bar.close()

    def before_val_epoch(self, runner) -> None:
        """Opens a bar over the evaluation's batches."""
        self._open(runner, "evaluation", len(runner.val_dataloader), 0)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advances the bar."""
        self._bar.update()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Closes the bar."""
        self._bar.close()

    def _open(self, runner, name: str, total: int, initial: int) -> None:
        disable = None if runner.rank == 0 else True  # None: shown only where stderr is a terminal
        self._bar = tqdm(desc=name, total=total, initial=initial, unit="it", file=sys.stderr, disable=disable)
