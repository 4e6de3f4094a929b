"""Image sources: where the images, and labels where there are any, come from. Pretraining and readout share them.

A config names a source, ``source="cifar10"`` or ``source=dict(type="file_list", file="{split}.txt")``, beside the
``data_root`` that it reads from and the ``split`` of it. docs/data.md lists the sources with their layouts.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmengine.registry import Registry
from PIL import Image

SOURCES = Registry(
    "image source",
    locations=["pretrain.data.image_files", "pretrain.data.standard_sets", "pretrain.data.tar_shards",
               "pretrain.data.object_crops"],
)


class ImageSource(ABC):
    """Images by index, with labels or without.

    Sources are pickled to data-loader workers and used in forked ones.

    Attributes:
        classes: class names; None for an unlabelled source.
        labels: ``(len,)`` int64 indices into ``classes``; None for an unlabelled source.
        description: what to call the source in messages.
        how_to_label: what a user does so that this source has labels.
    """

    classes: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    description: str
    how_to_label: str = "choose a source with labels"
    splits: ClassVar[tuple[str, ...] | None] = None  # None: whatever the data hold

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """The splits that a readout trains and tests on; ``options`` are those of the config.

        Raises:
            ValueError: the data hold no such pair.
        """
        return ("train", "test")

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call image ``index`` in messages: its path, or say "cifar10 train image 17"."""

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Image ``index`` in RGB, upright.

        Raises:
            CorruptImageError: it cannot be read.
        """

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """A random order of all indices, ``(len,)`` int64; a shuffle, unless the source reads better in another."""
        return generator.permutation(len(self))


def build_source(spec: str | Mapping, data_root: str | Path, split: str | None = None) -> ImageSource:
    """Builds an image source from its name or a config ``dict(type=name, ...)``.

    Args:
        spec: the source.
        data_root: the folder that it reads from.
        split: part of the data; by default everything for a folder, a file list or tar shards, otherwise "train".

    Raises:
        ValueError: no source has that name (the message lists the nearest ones), its options do not fit, or the data are
            missing, damaged or not in the layout that it reads.
    """
    source, options = _resolve(spec)
    if source.splits is not None and split not in (None, *source.splits):
        raise ValueError(f"image source {_name(spec)!r} has no split {split!r}; it has {', '.join(source.splits)}")
    arguments = dict(options, data_root=Path(data_root), split=split)
    try:
        inspect.signature(source).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"options of image source {_name(spec)!r} do not fit: {error}") from error
    return source(**arguments)


def default_splits(spec: str | Mapping, data_root: str | Path) -> tuple[str, str]:
    """The splits of a source that a readout trains and tests on, unless it is told others.

    Raises:
        ValueError: there is no such source, or the data hold no such pair.
    """
    source, options = _resolve(spec)
    return source.default_splits(Path(data_root), **options)


def labelled(source: ImageSource) -> ImageSource:
    """Returns the source if it can train and test a classifier.

    Raises:
        ValueError: it has no labels, or fewer than two classes.
    """
    if source.labels is None or source.classes is None:
        raise ValueError(f"{source.description} has no labels; {source.how_to_label}")
    if len(source.classes) < 2:
        raise ValueError(f"{source.description} has only the class {', '.join(source.classes)!r}, but at least two are "
                         f"needed; {source.how_to_label}")
    return source


def class_names(classes: Sequence[str] | int | None, count: int) -> tuple[str, ...]:
    """Class names from a source's option: names, how many there are, or None for ``count`` unnamed ones.

    Raises:
        ValueError: a name stands twice, or there are none.
    """
    if classes is None or isinstance(classes, int):
        classes = [str(index) for index in range(count if classes is None else classes)]
    names = tuple(map(str, classes))
    if not names:
        raise ValueError("classes is empty; give the classes' names or their number")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"classes holds {name!r} {times} times; every class needs a name of its own")
    return names


def _resolve(spec: str | Mapping) -> tuple[type[ImageSource], dict]:
    SOURCES.import_from_location()
    options = {"type": spec} if isinstance(spec, str) else dict(spec)
    name, known = options.pop("type", None), sorted(SOURCES.module_dict)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4) or known
        raise ValueError(f"unknown image source {name!r}; nearest known names: {', '.join(near)}")
    return SOURCES.module_dict[name], options


def _name(spec: str | Mapping) -> str:
    return spec if isinstance(spec, str) else spec["type"]
