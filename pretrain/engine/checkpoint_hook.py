"""When a run is saved, and where its random numbers go on when it is resumed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.dist import all_reduce, barrier, broadcast_object_list, gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from pretrain.distributed.comm import rank
from pretrain.engine.checkpoints import (
    RANDOM_STATES_KEY,
    checkpoint_name,
    complete,
    partial_path,
    point_to_last,
    remove_partial,
    remove_superseded,
)
from pretrain.engine.loop import ResumableTrainLoop
from pretrain.engine.random_state import random_state, set_random_state
from pretrain.errors import RunFailedError, RunInterrupted


@HOOKS.register_module()
class AtomicCheckpointHook(Hook):
    """Saves everything that a run continues from bit for bit: whole files only, after full epochs and in between.

    A checkpoint between two epochs' ends goes when two newer ones are complete: the newest may be of weights from which no
    finite loss comes any more, the one before it has given at least one. The end of the run leaves none in between. When a
    stop signal has come, a checkpoint is written after the current iteration and the run ends with
    :class:`~pretrain.errors.RunInterrupted`. Files are written by the first process, see :mod:`pretrain.engine.checkpoints`;
    where it cannot, all processes stop. Needs :class:`~pretrain.engine.loop.ResumableTrainLoop`.

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
        """Refuses a run whose loop never asks for checkpoints.

        Raises:
            ValueError: the loop is none of ours.
        """
        if not isinstance(runner.train_loop, ResumableTrainLoop):
            raise ValueError(f"AtomicCheckpointHook does not work with the loop {type(runner.train_loop).__name__}; set "
                             "train_cfg.type=ResumableTrainLoop or default_hooks.checkpoint.type=CheckpointHook")

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keeps the random states until the runner, which may seed anew, is ready to train."""
        self._random_states = checkpoint.get(RANDOM_STATES_KEY)

    def before_train(self, runner) -> None:
        """Restores this process's random state, and clears away what a killed run has left.

        Raises:
            RunFailedError: processes were resumed from different checkpoints, as where they see different files; or the
                first process cannot clear away (there its own error).
        """
        self.check(runner)
        _do_in_first_process(lambda: _clear_away(runner))
        lowest, highest = torch.tensor([-runner.iter]), torch.tensor([runner.iter])
        all_reduce(lowest, op="max")
        all_reduce(highest, op="max")
        if -lowest.item() != highest.item():
            raise RunFailedError(f"processes resume at iterations {-lowest.item()} to {highest.item()}; let each of them "
                                 f"see the same files in {runner.work_dir}")
        self._last_saved = time.monotonic()
        if runner.iter > 0:
            self._previous = self._path(runner)
        if self._random_states is None:
            return
        if rank() < len(self._random_states):
            set_random_state(self._random_states[rank()])
        else:
            runner.logger.warning(f"the checkpoint is of {len(self._random_states)} processes: process {rank()} starts with "
                                  "fresh random numbers")

    def between_train_iters(self, runner) -> None:
        """Saves what is due; ``runner.epoch`` and ``runner.iter`` are what the run is resumed with.

        Raises:
            RunInterrupted: a stop signal has come to any process and the run is not finished.
            RunFailedError: the first process cannot save (there its own error).
        """
        stop_signal, time_is_up = self._agree(runner)
        iterations_are_up = self.interval_iters is not None and runner.iter % self.interval_iters == 0
        if not (self._epoch_is_due(runner) or stop_signal or time_is_up or iterations_are_up):
            return
        path = self._path(runner)
        self._save(runner, path)
        if stop_signal and not _finished(runner):
            barrier()  # a launcher may kill all processes once the first of them has ended
            raise RunInterrupted(
                f"stopped by {signal.Signals(stop_signal).name} after iteration {runner.iter} of {runner.max_iters}; "
                f"{Path(runner.work_dir) / path.name} is saved, continue with --resume", stop_signal
            )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Adds the random states, and keeps the checkpoint plain data.

        mmengine would pickle objects of its message hub, the smoothed histories of logged values, into the file. Without
        them anybody can load it with ``weights_only=True``; a resumed run smooths its log anew.
        """
        checkpoint[RANDOM_STATES_KEY] = self._random_states
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}}

    def _agree(self, runner) -> tuple[int, int]:
        """The stop signal of any process (0 for none), and whether the first one's clock says that a checkpoint is due."""
        minutes = (time.monotonic() - self._last_saved) / 60
        time_is_up = rank() == 0 and self.interval_minutes is not None and minutes >= self.interval_minutes
        requests = torch.tensor([runner.train_loop.stop_request.signum, int(time_is_up)])
        all_reduce(requests, op="max")
        return tuple(requests.tolist())

    def _epoch_is_due(self, runner) -> bool:
        at_epoch_end = runner.iter == runner.epoch * len(runner.train_dataloader)
        return at_epoch_end and (_finished(runner) or runner.epoch % self.interval == 0)

    def _path(self, runner) -> Path:
        """Where the run as it is now is saved."""
        within = () if self._epoch_is_due(runner) else (runner.iter,)
        return Path(runner.work_dir).absolute() / checkpoint_name(runner.epoch, *within)

    def _save(self, runner, path: Path) -> None:
        self._random_states = gather_object(random_state())
        _do_in_first_process(lambda: self._write(runner, path))
        self._previous = path
        self._last_saved = time.monotonic()

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


def _do_in_first_process(action: Callable[[], None]) -> None:
    """Lets the first process act, and raises its error in all of them: the others would wait for it without end.

    Raises:
        RunFailedError: ``action`` failed in the first process, which raises the error itself.
    """
    error, message = None, [None]
    if rank() == 0:
        try:
            action()
        except Exception as raised:
            error, message = raised, [str(raised)]
    broadcast_object_list(message)
    if error is not None:
        raise error
    if message[0] is not None:
        raise RunFailedError(message[0])
