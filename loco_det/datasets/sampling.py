"""The order in which a detector sees its training images: a function of the seed and the position alone, for resuming.

And the loop of schedules that count iterations, which takes its images in that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATA_SAMPLERS
from mmengine.registry import LOOPS
from torch.utils.data import Sampler

from pretrain.data.dataset import SampleKey
from pretrain.distributed import comm
from pretrain.engine.loop import ResumableTrainLoop


@DATA_SAMPLERS.register_module()
class AspectRatioSampler(Sampler):
    """Shuffled images, every batch of one orientation, wide or tall, so that little of it is padding.

    Batches are put together over all processes and then shared, so the images of a step do not depend on the number of
    processes. Nothing is read of what a resumed run has seen: an order is computed, not drawn step by step.

    Without ``iterations``, an epoch is one pass over the images; those that do not fill a last batch of their orientation
    are left out of it. With ``iterations``, the only "epoch" has that many batches out of reshuffled passes, and leaves
    nothing out.

    Args:
        dataset: a data set of mmdet, whose ``get_data_info`` has widths and heights.
        batch_size: images per batch of this process.
        iterations: batches of the only epoch; None for epochs of one pass.
        seed: the run's seed; the same in every process.

    Attributes:
        start: how many of this process's samples the next iteration leaves out; a run resumed within an epoch sets it.

    Raises:
        ValueError: the images do not fill one batch.
    """

    def __init__(
        self, dataset: BaseDetDataset, batch_size: int, iterations: int | None = None, seed: int | None = None
    ) -> None:
        self.batch_size = batch_size
        self.iterations = iterations
        self.seed = seed or 0
        self.epoch = 0
        self.start = 0
        infos = (dataset.get_data_info(index) for index in range(len(dataset)))
        self._is_wide = np.array([info["width"] >= info["height"] for info in infos], dtype=bool)  # (len(dataset),)
        self._global_batch = batch_size * comm.world_size()
        wide = int(self._is_wide.sum())
        self._batches_of_epoch = wide // self._global_batch + (len(self._is_wide) - wide) // self._global_batch
        if self._batches_of_epoch == 0 and (iterations is None or len(self._is_wide) == 0):
            raise ValueError(f"{len(self._is_wide)} training images, {wide} of them wide, do not fill a batch of "
                             f"{self._global_batch} of one orientation; lower train_dataloader.batch_size")

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batch_size * (self._batches_of_epoch if self.iterations is None else self.iterations)

    def __iter__(self) -> Iterator[SampleKey]:
        passes, indices = self._order()  # (number of batches, global batch) each
        first = comm.rank() * self.batch_size
        mine = slice(first, first + self.batch_size)
        pairs = zip(passes[:, mine].reshape(-1)[self.start :], indices[:, mine].reshape(-1)[self.start :], strict=True)
        return (SampleKey(self.seed, int(number), int(index)) for number, index in pairs)

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every position of every global batch the number of the pass and the image."""
        size, num_images = self._global_batch, len(self._is_wide)
        if self.iterations is None:
            first, count, wanted = self.epoch, 1, self._batches_of_epoch
        else:  # two orientations leave at most two batches unfilled
            first, count, wanted = 0, math.ceil((self.iterations + 2) * size / num_images), self.iterations
        passes = np.repeat(np.arange(first, first + count), num_images)
        indices = np.concatenate([np.random.default_rng([self.seed, p]).permutation(num_images)
                                  for p in range(first, first + count)])
        wide = self._is_wide[indices]
        batches, filled_at = [], []
        for orientation in (True, False):
            positions = np.flatnonzero(wide == orientation)
            positions = positions[: len(positions) // size * size].reshape(-1, size)
            batches.append(positions)
            filled_at.append(positions[:, -1])
        order = np.argsort(np.concatenate(filled_at))[:wanted]  # batches come when they are full
        chosen = np.concatenate(batches)[order]
        return passes[chosen], indices[chosen]


@LOOPS.register_module()
class ResumableIterTrainLoop(ResumableTrainLoop):
    """A :class:`~pretrain.engine.loop.ResumableTrainLoop` over a number of iterations, however many passes that is.

    Args:
        runner: the runner.
        dataloader: config of a data loader whose sampler takes ``iterations``, as :class:`AspectRatioSampler`.
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
