"""Images for analyses of an encoder without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from pretrain.data.sources import ImageDataset, build_source, default_splits
from pretrain.eval.data import CentreView, LabelledImages, fingerprint, name_and_options


class UnlabelledImages(ImageDataset):
    """The images of any source as if of one class, for what needs no labels.

    Args:
        source: images, with labels or without.
    """

    def __init__(self, source: ImageDataset) -> None:
        self._source = source
        self.description = source.description
        self.classes, self.labels = ("unlabelled",), np.zeros(len(source), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._source)

    def name(self, index: int) -> str:
        """See :class:`ImageDataset`."""
        return self._source.name(index)

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        return self._source.load(index)


@dataclass(frozen=True)
class UnlabelledData:
    """Images that are looked at, whether they have labels or not.

    Attributes:
        source: all images of the split.
        indices: which of them are used, ascending.
        record: what they are, as plain data.
    """

    source: UnlabelledImages
    indices: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)

    def views(self, view: CentreView) -> LabelledImages:
        """The images with this view."""
        return LabelledImages(self.source, self.indices, view)


def load_unlabelled_data(
    source: str | Mapping, data_root: str | Path, split: str | None = None, limit: int | None = None, seed: int = 0
) -> UnlabelledData:
    """Opens images without a look at their labels.

    Args:
        source: name or config of an image source, see :func:`pretrain.data.sources.build_source`.
        data_root: where it reads from.
        split: by default that on which an evaluation tests, and where there is none all images.
        limit: use a random subset of this many images; a smaller one of the same seed lies within a larger one.
        seed: of the subset.

    Raises:
        ValueError: the data are missing, or the limit is above their number.
    """
    images, split = _open_split(source, data_root, split)
    count = len(images)
    if limit is not None and limit > count:
        raise ValueError(f"limit is {limit}, but {images.description} has {count} images")
    indices = np.sort(np.random.default_rng(seed).permutation(count)[:limit])
    name, options = name_and_options(source)
    record = dict(source=name, options=options, root=Path(data_root).resolve().name, split=split, images=len(indices),
                  limit=limit, fingerprint=fingerprint([UnlabelledImages(images)], data_root))
    return UnlabelledData(UnlabelledImages(images), indices, record)


def _open_split(source: str | Mapping, data_root: str | Path, split: str | None) -> tuple[ImageDataset, str | None]:
    if split is not None:
        return build_source(source, data_root, split), split
    try:
        split = default_splits(source, data_root)[1]
        return build_source(source, data_root, split), split
    except ValueError as error:
        try:
            images = build_source(source, data_root)
        except ValueError as error_of_all:
            # where no split is known by default, none is needed: then it counts why there are no images at all
            raise (error_of_all if split is None else error) from None
        if images.splits is not None:  # by default this is not the test split, and nobody asked for it
            raise
        print_log(f"no test split found: all {len(images)} images of {images.description} are taken", logger="current")
        return images, None
