"""A training loop that resumes within an epoch with the random state restored, and stops cleanly on SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # SLURM, SLURM with --signal=USR1, Ctrl-C
_CTRL_C_AGAIN = b"\nstopping after this iteration, with a checkpoint; Ctrl-C again ends the run at once, without\n"


class StopRequest(AbstractContextManager):
    """Notes :data:`STOP_SIGNALS` while it is entered, instead of ending; a second SIGINT has its usual effect.

    Where SIGINT is ignored, as in a job that a shell script runs in the background, it stays so.

    Attributes:
        signum: the last signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows no other to set handlers
            numbers = [n for n in STOP_SIGNALS if n != signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *exception: object) -> None:
        for number in list(self._previous):
            self._give_back(number)

    def _note(self, signum: int, frame: object) -> None:
        self.signum = signum
        if signum == signal.SIGINT:
            self._give_back(signum)
            os.write(2, _CTRL_C_AGAIN)  # print() may be what the signal has interrupted

    def _give_back(self, number: int) -> None:
        handler = self._previous.pop(number)
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch based loop, which also starts at any iteration within an epoch.

    The epoch's remaining batches are those that an undisturbed run would see, under their true ``batch_idx``. Loading them
    leaves the random state of this process alone, so what the model draws depends neither on the number of workers nor on
    interruptions.

    Between two iterations, and after the hooks at an epoch's end, the loop calls the hooks' ``between_train_iters(runner)``:
    ``runner.epoch`` and ``runner.iter`` are then what a run resumed from this state starts with, and
    ``runner.train_loop.stop_request`` says whether a signal has come.

    Args:
        runner: the runner.
        dataloader: a data loader or its config; its sampler leaves out the first ``start`` samples of an iteration, as
            :class:`pretrain.data.dataset.KeyedSampler` does.
        max_epochs: epochs to train.
        options: further arguments of mmengine's loop.

    Raises:
        ValueError: the sampler has no ``start``.
    """

    def __init__(self, runner, dataloader: DataLoader | Mapping, max_epochs: int, **options: Any) -> None:
        super().__init__(runner, dataloader, max_epochs, **options)
        if not hasattr(self.dataloader.sampler, "start"):
            raise ValueError(f"ResumableTrainLoop cannot start within an epoch of {type(self.dataloader.sampler).__name__}; "
                             "set train_dataloader.sampler.type=KeyedSampler or train_cfg.type=EpochBasedTrainLoop")
        self.dataloader.worker_init_fn = partial(_init_worker, self.dataloader.worker_init_fn)
        self.stop_request = StopRequest()

    def run(self) -> nn.Module:
        """Trains to the end, or until a hook stops the run."""
        with self.stop_request:
            return super().run()

    def run_epoch(self) -> None:
        """Trains what is left of the epoch.

        Raises:
            ValueError: the run was at an iteration that the epoch does not have.
        """
        done, length = self.iter - self.epoch * len(self.dataloader), len(self.dataloader)
        if not 0 <= done <= length:
            raise ValueError(f"iteration {self.iter} does not lie in epoch {self.epoch + 1} of {length} iterations; the "
                             "number of images or processes has changed since the checkpoint: restore them or start again")
        # within an epoch, the undisturbed run has done this before the state that was restored
        with unchanged_random_state() if done else nullcontext():
            self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in self._batches(done):
            self.run_iter(index, batch)
            if index + 1 < length:
                self.runner.call_hook("between_train_iters")
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.runner.call_hook("between_train_iters")

    def _batches(self, done: int) -> Iterator[tuple[int, Any]]:
        """The epoch's batches after the first ``done``, with their indices."""
        sampler = self.dataloader.sampler
        sampler.start = done * self.dataloader.batch_size
        try:
            with unchanged_random_state():
                batches = iter(self.dataloader)  # draws a seed for the workers
            for index in range(done, len(self.dataloader)):
                with unchanged_random_state():  # without workers, samples are drawn in this process
                    batch = next(batches)
                yield index, batch
        finally:
            sampler.start = 0


def _init_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Keeps a worker alive when SLURM or Ctrl-C signals all processes, so that the run can finish its iteration and save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before there is another thread
        threading.Thread(target=_exit_when_parent_terminates, daemon=True).start()
    if init is not None:
        init(worker)


def _exit_when_parent_terminates() -> None:
    """Does what torch's own handler does for a SIGTERM of the parent, and nothing for one of anybody else."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def random_state() -> dict[str, Any]:
    """States of torch's, numpy's and Python's global generators, and of the current CUDA device's where there is one.

    Plain data, so that ``torch.load(..., weights_only=True)`` reads it.
    """
    algorithm, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (algorithm, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached_gaussian),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restores what :func:`random_state` returned; its tensors may lie on any device."""
    algorithm, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"].cpu())
    np.random.set_state((algorithm, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Whatever is drawn or seeded inside leaves the generators as they were."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
