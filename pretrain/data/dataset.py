"""The two-view data set, its sampler, and the one rule for corrupt images."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS, DATASETS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import build_source
from pretrain.data.views import TwoViews
from pretrain.distributed import comm
from pretrain.errors import RunFailedError

MAX_CORRUPT_SHARE = 0.01


def check_corrupt(dataset: Dataset, reported: Collection[int] = (), max_share: float = MAX_CORRUPT_SHARE) -> set[int]:
    """The rule for corrupt images: they are logged and skipped, and too many stop the run.

    Args:
        dataset: flags them in its ``corrupt``, ``(len,)`` uint8 in memory shared with its workers, and has a ``load(index)``
            that raises CorruptImageError for them. The flags of all processes count.
        reported: images that an earlier check has logged.
        max_share: of the data set, 0 to 1. One image is always tolerated, but never all of them.

    Returns:
        The corrupt images found so far.

    Raises:
        RunFailedError: they are more than ``max_share``; in all processes.
    """
    flags = comm.max_over_ranks(dataset.corrupt.clone())  # workers may set more in the meantime
    found = set(flags.nonzero().flatten().tolist())
    new = sorted(found.difference(reported))
    if new and comm.rank() == 0:
        for index in new[:10]:
            print_log(f"skipped a corrupt image: {_reason(dataset, index)}", "current", logging.WARNING)
        print_log(f"{len(found)} of {len(dataset)} images are corrupt so far", "current", logging.WARNING)
    if len(found) > min(max(1, int(max_share * len(dataset))), len(dataset) - 1):
        raise RunFailedError(f"{len(found)} of {len(dataset)} images are corrupt, more than the tolerated share of "
                             f"{max_share:g}; the first: {_reason(dataset, min(found))}")
    return found


def _reason(dataset: Dataset, index: int) -> str:
    try:
        dataset.load(index)
    except CorruptImageError as error:
        return str(error)
    return f"image {index}, which can be decoded now"


class SampleKey(NamedTuple):
    """What the sampler asks the data set for. With the seed in it, a sample does not depend on any worker's state."""

    seed: int
    epoch: int
    index: int


@DATASETS.register_module()
class TwoViewImages(Dataset):
    """Two random views of every image of a source; labels are not used.

    A corrupt image is replaced by the next one and flagged in :attr:`corrupt`.

    Args:
        data_root: folder that the source reads from; by default one of images, searched recursively.
        views: options of :class:`~pretrain.data.views.TwoViews`.
        cache: keep the decoded images in memory; for small sets.
        source: name or config of an image source, see :func:`~pretrain.data.sources.build_source`.
        split: part of the source.

    Attributes:
        source: the images, an :class:`~pretrain.data.sources.ImageDataset`.
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

    def load(self, index: int) -> Image.Image:
        """The source's image ``index``."""
        return self.source.load(index)

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """The order in which the source wants an epoch to be read, ``(len,)``."""
        return self.source.epoch_order(generator)

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        """``{"views": (2, 3, H, W) uint8}``, a function of the key alone."""
        for offset in range(len(self)):
            index = (key.index + offset) % len(self)
            image = self._cached[index] if self._cached is not None else self._decode(index)
            if image is not None:
                seed_generator(key)
                return {"views": self.views(image)}
        raise CorruptImageError(f"none of the {len(self)} images can be decoded; {_reason(self, 0)}")

    def _decode(self, index: int) -> np.ndarray | None:
        try:
            return np.asarray(self.source.load(index))  # (H, W, 3) uint8, a quarter smaller than PIL's own pixels
        except CorruptImageError:
            self.corrupt[index] = 1
            return None


def seed_generator(key: SampleKey) -> None:
    """Makes what torch's default generator draws next a function of the key alone, whichever process draws."""
    entropy = np.random.SeedSequence([key.seed, key.epoch, key.index]).generate_state(1, np.uint64)
    torch.default_generator.manual_seed(int(entropy[0]))


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
        self._dataset = dataset

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[SampleKey]:
        generator = np.random.default_rng([self.seed, self.epoch])
        own_order = getattr(self._dataset, "epoch_order", None)
        order = own_order(generator) if own_order else generator.permutation(len(self._dataset))
        mine = order[comm.rank() :: comm.world_size()][self.start : self.num_samples]
        return (SampleKey(self.seed, self.epoch, int(index)) for index in mine)
