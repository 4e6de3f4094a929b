"""The unlabelled two-view data set and its sampler, both pure functions of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import build_source
from pretrain.data.views import TwoViews
from pretrain.distributed import comm


class SampleKey(NamedTuple):
    """What the sampler asks the data set for. With the seed in it, a sample does not depend on any worker's state."""

    seed: int
    epoch: int
    index: int


@DATASETS.register_module()
class TwoViewImages(Dataset):
    """Two random views of every image of a source; labels are neither needed nor looked at.

    An image that cannot be decoded is replaced by the next one that can, and flagged in :attr:`corrupt`.

    Args:
        data_root: folder that the source reads from; by default one of images, searched recursively.
        views: options of :class:`~pretrain.data.views.TwoViews`.
        cache: keep the decoded images in memory; for small sets.
        source: name or config of an image source, see :func:`~pretrain.data.sources.build_source`.
        split: part of the source.

    Attributes:
        source: the images, an :class:`~pretrain.data.sources.ImageSource`.
        corrupt: ``(len,)`` uint8 in shared memory, 1 where decoding failed in any worker.

    Raises:
        ValueError: the source's folder is missing or does not hold what the source reads.
    """

    metainfo: Mapping = {}

    def __init__(
        self,
        data_root: str,
        views: Mapping,
        cache: bool = False,
        source: str | Mapping = "folder",
        split: str | None = None,
    ) -> None:
        self.source = build_source(source, data_root, split)
        self.views = TwoViews(**views)
        self.corrupt = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        self._cached = [self._decode(index) for index in range(len(self))] if cache else None

    def __len__(self) -> int:
        return len(self.source)

    def sample_name(self, index: int) -> str:
        """What to call image ``index`` in messages: its path, where it has one."""
        return self.source.name(index)

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """The order in which the source wants an epoch to be read, ``(len,)``."""
        return self.source.epoch_order(generator)

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        """``{"views": (2, 3, H, W) uint8}``, a function of the key alone."""
        image = None
        for offset in range(len(self)):
            index = (key.index + offset) % len(self)
            image = self._cached[index] if self._cached is not None else self._decode(index)
            if image is not None:
                break
        if image is None:
            raise CorruptImageError(f"none of the {len(self)} images can be decoded, {self.sample_name(0)} for one")
        entropy = np.random.SeedSequence([key.seed, key.epoch, key.index]).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(entropy[0]))
        return {"views": self.views(image)}

    def _decode(self, index: int) -> np.ndarray | None:
        try:
            return np.asarray(self.source.load(index))  # (H, W, 3) uint8, a quarter smaller than PIL's own pixels
        except CorruptImageError:
            self.corrupt[index] = 1
            return None


@DATA_SAMPLERS.register_module()
class KeyedSampler(Sampler):
    """A seeded order per epoch, cut to a multiple of the world size, that yields :class:`SampleKey`.

    The order is a shuffle, unless the data set has one of its own (``epoch_order(generator)``, an array of all indices).

    Args:
        dataset: anything with a length.
        seed: the run's seed; the same in every process.

    Attributes:
        start: how many of this process's samples the next iteration leaves out; a run resumed within an epoch sets it.
    """

    def __init__(self, dataset: Dataset, seed: int | None = None) -> None:
        self.num_samples = len(dataset) // comm.world_size()
        self.seed = seed or 0
        self.epoch = 0
        self.start = 0
        shuffle = partial(_shuffle, len(dataset))
        self._epoch_order = getattr(dataset, "epoch_order", shuffle)

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[SampleKey]:
        order = self._epoch_order(np.random.default_rng([self.seed, self.epoch]))
        mine = order[comm.rank() :: comm.world_size()][self.start : self.num_samples]
        return (SampleKey(self.seed, self.epoch, int(index)) for index in mine)


def _shuffle(size: int, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(size)
