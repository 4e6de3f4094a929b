"""A hook for subprocesses under test that sends a signal to its own process at a given moment."""

from __future__ import annotations

import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from pretrain.distributed.comm import rank

VARIABLE = "LOCO_DET_TEST_FAULT"  # "<moment> <iteration, from 1> <signal> <rank> <times>"
MOMENTS = ("before_train_iter", "after_train_iter", "between_train_iters")


def fault(moment: str, iteration: int, signum: signal.Signals, process: int = 0, times: int = 1) -> dict[str, str]:
    """The environment in which the hook sends ``signum`` at ``moment`` (a name of :data:`MOMENTS`) of ``iteration``."""
    assert moment in MOMENTS
    return {VARIABLE: f"{moment} {iteration} {signum.name} {process} {times}"}


@HOOKS.register_module()
class FaultHook(Hook):
    """Sends the signal that the environment asks for; does nothing without."""

    priority = "VERY_HIGH"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._reach("before_train_iter", runner.iter + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._reach("after_train_iter", runner.iter + 1)

    def between_train_iters(self, runner) -> None:
        self._reach("between_train_iters", runner.iter)

    def _reach(self, moment: str, iteration: int) -> None:
        wanted = os.environ.get(VARIABLE)
        if wanted is not None:
            wanted_moment, wanted_iteration, name, process, times = wanted.split()
            if (moment, iteration, rank()) == (wanted_moment, int(wanted_iteration), int(process)):
                for _ in range(int(times)):
                    os.kill(os.getpid(), signal.Signals[name])
