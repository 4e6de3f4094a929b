"""Runner hooks that pretraining and detection share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tqdm import tqdm

from pretrain.data.dataset import MAX_CORRUPT_SHARE, check_corrupt


@HOOKS.register_module()
class RecordHook(Hook):
    """Writes into every checkpoint what it is one of, and how far the run has come.

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
class ProgressBarHook(Hook):
    """Progress bars of training and evaluation on stderr, only on a terminal and in the first process."""

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
