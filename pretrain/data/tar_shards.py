"""WebDataset's tar shards as a source with random access: an index of the samples stands in for the stream."""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from pretrain.data.decoding import CorruptImageError, decode_image
from pretrain.data.sources import SOURCES, ImageSource, class_names
from pretrain.data.tar_index import NO_LABEL, ShardIndex, index_shards, shard_stamp


@SOURCES.register_module("webdataset")
class TarShards(ImageSource):
    """The samples of tar shards in WebDataset's layout: ``<key>.jpg`` (any image suffix) and, for labels, ``<key>.cls``.

    Images come in the shards' order. An epoch shuffles the shards, and then the samples of each ``window`` consecutive ones
    among each other, so that only that many shards are read at a time. A batch therefore draws from ``window`` shards, not
    from the whole set: shards whose samples are sorted (by class, say) need a window of all shards, or to be written anew.

    Args:
        data_root: the folder of the shards, or that of the splits.
        split: sub-folder with the split's shards, or what takes the place of "{split}" in ``shards``.
        shards: their names, "train-{000000..000146}.tar"; by default all .tar files in the folder.
        window: how many shards an epoch mixes with each other.
        classes: names of the classes or their number; by default as many as the labels ask for, with a split those of
            "train" if it is there.

    Raises:
        ValueError: shards are missing or no tar archives, hold no image, or a label is no integer or out of range.
    """

    how_to_label = "add a <key>.cls file with the label, an integer from 0, to each sample"

    def __init__(
        self,
        data_root: Path,
        split: str | None = None,
        shards: str | None = None,
        window: int = 16,
        classes: Sequence[str] | int | None = None,
    ) -> None:
        if window < 1:
            raise ValueError(f"window is {window}; at least 1 shard is needed, and 16 is the default")
        paths = _shard_paths(data_root, split, shards)
        self.window = window
        self.description = f"webdataset {paths[0].parent} ({len(paths)} shards, {paths[0].name} to {paths[-1].name})"
        indices = index_shards(paths)
        self._shards = _OpenShards(paths, np.stack([index.stamp for index in indices]))
        if any((index.labels != NO_LABEL).any() for index in indices):  # a cut may take a sample's label alone
            indices = [index.labelled_samples() if index.damage else index for index in indices]
        _report_damage(paths, indices)
        self._ends = np.cumsum([len(index) for index in indices])
        if not len(self):
            raise ValueError(f"{self.description} holds no image; samples are files <key>.jpg, <key>.png and so on")
        self._members = np.concatenate([index.members for index in indices])
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        if classes is None and split not in (None, "train"):
            classes = _classes_of_train(data_root, shards)
        self._set_labels(np.concatenate([index.labels for index in indices]), classes)

    def _set_labels(self, labels: np.ndarray, classes: Sequence[str] | int | None) -> None:
        without = np.flatnonzero(labels == NO_LABEL)
        if len(without):
            if len(without) < len(self):
                self.how_to_label = (f"{len(without)} of {len(self)} samples have no .cls, {self.name(without[0])} for "
                                     "one; add them")
            return
        top = int(labels.argmax())
        if classes is None and labels[top] >= 1_000_000:
            raise ValueError(f"{self.name(top)} has the label {labels[top]}, which is out of range; labels are indices of "
                             "classes from 0")
        self.classes, self.labels = class_names(classes, int(labels[top]) + 1), labels
        if labels[top] >= len(self.classes):
            raise ValueError(f"{self.name(top)} has the label {labels[top]}, which is out of range for {len(self.classes)} "
                             "classes; mend classes or the labels")

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """Train and val, sub-folders or what takes the place of "{split}" in ``shards``."""
        return ("train", "val")

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))

    def name(self, index: int) -> str:
        """The shard's path and the image's name in it."""
        return f"{self._shards.paths[self._shard_of(index)]}: {os.fsdecode(self._members[index])}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageSource`.

        Raises:
            ValueError: the shard is not what it was when it was indexed; its images and labels may now be other ones.
        """
        try:
            content = self._shards.read(self._shard_of(index), int(self._offsets[index]), int(self._sizes[index]))
        except OSError as error:
            raise CorruptImageError(f"{self.name(index)} cannot be read: {error}") from error
        return decode_image(content, name=self.name(index))

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """Shuffled shards, and shuffled samples among each ``window`` of them, ``(len,)`` int64."""
        starts = np.concatenate([[0], self._ends[:-1]])
        shards = generator.permutation(len(self._ends))
        order = []
        for first in range(0, len(shards), self.window):
            within = [np.arange(starts[shard], self._ends[shard]) for shard in shards[first : first + self.window]]
            order.append(generator.permutation(np.concatenate(within)))
        return np.concatenate(order)


class _OpenShards:
    """Random reads from many shards, the last used of which stay open in each process.

    A fork shares the position of the files that are open; a child opens its own.
    """

    limit = 64  # far below the 1,024 that a process may usually open

    def __init__(self, paths: Sequence[Path], stamps: np.ndarray) -> None:
        self.paths = tuple(paths)
        self.stamps = stamps  # (len(paths), 2), see shard_stamp
        self._forget()

    def _forget(self) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._open: OrderedDict[int, io.FileIO] = OrderedDict()  # the last used one last

    def __getstate__(self) -> dict:
        return {"paths": self.paths, "stamps": self.stamps}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """``size`` bytes of ``paths[shard]`` from ``offset``.

        Raises:
            ValueError: the shard has another stamp now; looked at in each read, for one may be rewritten while it is open.
        """
        if self._owner != os.getpid():
            self._forget()
        with self._lock:
            if shard not in self._open:
                if len(self._open) >= self.limit:
                    self._open.popitem(last=False)[1].close()
                self._open[shard] = open(self.paths[shard], "rb", buffering=0)  # noqa: SIM115 (stays open)
            self._open.move_to_end(shard)
            file = self._open[shard]
            if not np.array_equal(shard_stamp(file.fileno()), self.stamps[shard]):
                raise ValueError(f"{self.paths[shard]} has been changed since it was indexed (another size or modification "
                                 "time); start again, which indexes it anew, and leave shards alone while they are used")
            file.seek(offset)
            return file.read(size)


def _classes_of_train(data_root: Path, shards: str | None) -> int | None:
    """How many classes the labels of the split "train" ask for; None where there is no such split, or it has no labels."""
    try:
        paths = _shard_paths(data_root, "train", shards)
    except ValueError:
        return None
    labels = np.concatenate([index.labels for index in index_shards(paths)])
    return int(labels.max()) + 1 if len(labels) and labels.min() != NO_LABEL else None


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for: "{08..10}" is 08, 09 and 10; several ranges make all their combinations.

    Raises:
        ValueError: a range ends before it begins.
    """
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)  # text, first, last, text, first, last, ..., text
    ranges = []
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        if int(last) < int(first):
            raise ValueError(f"range {{{first}..{last}}} in {pattern!r} ends before it begins; write {{{last}..{first}}}")
        ranges.append([f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)])
    texts = parts[::3]
    return ["".join(itertools.chain(*zip(texts, (*numbers, ""), strict=True))) for numbers in itertools.product(*ranges)]


def _shard_paths(data_root: Path, split: str | None, shards: str | None) -> list[Path]:
    """Raises ValueError where there are none, or one of a pattern is missing."""
    in_name = shards is not None and "{split}" in shards
    if in_name and split is None:
        raise ValueError(f"shards is {shards!r}, but no split is given that could take the place of '{{split}}'")
    folder = data_root / split if split and not in_name else data_root
    if not folder.is_dir():
        raise ValueError(f"folder of tar shards {folder} does not exist; pass the folder that holds them with --data-root")
    if shards is None:
        paths = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
        if not paths:
            raise ValueError(f"{folder} holds no .tar file; pass the folder of the shards, name its sub-folder as split, or "
                             "give their names as shards='{000000..000146}.tar'")
        return paths
    paths = [folder / name for name in expand_braces(shards.replace("{split}", split or ""))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(f"{len(missing)} of the {len(paths)} shards {shards!r} are missing in {folder}: "
                         f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; add them or change shards")
    return paths


def _report_damage(paths: Sequence[Path], indices: Sequence[ShardIndex]) -> None:
    for path, index in zip(paths, indices, strict=True):
        if index.damage:
            print_log(f"{path} is truncated or damaged: {index.damage}; its {len(index)} readable samples are used",
                      logger="current", level=logging.WARNING)
