"""WebDataset's tar shards with random access: an index of the samples, made once, replaces the stream.

So a sample has a number, as in any other source, and epochs are exact and resumable within an epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import re
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from mmengine.logging import print_log
from PIL import Image
from tqdm import tqdm

from pretrain.data.decoding import IMAGE_SUFFIXES, CorruptImageError, decode_image, is_hidden
from pretrain.data.sources import SOURCES, ImageDataset, class_names

VERSION = 3  # raise whenever the index of an unchanged shard changes
NO_LABEL = -1
ARRAYS = ("members", "offsets", "sizes", "labels")
_THREADS = 8


@SOURCES.register_module("webdataset")
class TarShards(ImageDataset):
    """The samples of tar shards in WebDataset's layout: ``<key>.jpg`` (any image suffix) and, for labels, ``<key>.cls``.

    Images come in the shards' order. An epoch shuffles the shards, and then the samples of each ``window`` consecutive ones
    among each other, so that only that many shards are read at a time. A batch therefore draws from ``window`` shards, not
    from the whole set: shards whose samples are sorted (by class, for example) need a window of all shards.

    Args:
        data_root: the folder of the shards, or that of the splits.
        split: sub-folder with the split's shards, or what takes the place of "{split}" in ``shards``.
        shards: their names, "train-{000000..000146}.tar"; by default all .tar files in the folder.
        window: how many shards an epoch mixes with each other.
        classes: names of the classes or their number; by default as many as the labels show.

    Raises:
        ValueError: shards are missing or not tar archives, hold no image, or a label is not an integer or out of range.
    """

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
        self.paths = _shard_paths(data_root, split, shards)
        self.window = window
        self.description = f"webdataset {self.paths[0].parent} ({len(self.paths)} shards)"
        indices = _index_shards(self.paths)
        self._ends = np.cumsum([len(index["offsets"]) for index in indices])
        if not len(self):
            raise ValueError(f"{self.description} holds no image; samples are files <key>.jpg, <key>.png and so on, with no "
                             "dot in the key")
        self._members, self._offsets, self._sizes, labels = (
            np.concatenate([index[name] for index in indices]) for name in ARRAYS)  # (len,) each
        if labels.min() != NO_LABEL:
            self.labels, self.classes = labels, class_names(classes, labels)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _shard_of(self, index: int) -> Path:
        return self.paths[int(np.searchsorted(self._ends, index, side="right"))]

    def name(self, index: int) -> str:
        """The shard's path and the image's name in it."""
        return f"{self._shard_of(index)}: {os.fsdecode(self._members[index])}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        try:
            with open(self._shard_of(index), "rb", buffering=0) as shard:
                content = os.pread(shard.fileno(), int(self._sizes[index]), int(self._offsets[index]))
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


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for: "{08..10}" is 08, 09 and 10; several ranges make all their combinations."""
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)  # text, first, last, text, first, last, ..., text
    ranges = [[f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
              for first, last in zip(parts[1::3], parts[2::3], strict=True)]
    texts = parts[::3]
    return ["".join(itertools.chain(*zip(texts, (*numbers, ""), strict=True))) for numbers in itertools.product(*ranges)]


def _shard_paths(data_root: Path, split: str | None, shards: str | None) -> list[Path]:
    """Raises ValueError where there are none, or one of a pattern is missing."""
    in_name = shards is not None and "{split}" in shards
    folder = data_root / split if split and not in_name else data_root
    if shards is None:
        paths = sorted(path for path in folder.glob("*.tar") if not is_hidden(path.name))
    else:
        paths = [folder / name for name in expand_braces(shards.replace("{split}", split or ""))]
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        raise ValueError(f"{folder} does not hold the shards {shards or '*.tar'!r}{': ' if missing else ''}"
                         f"{', '.join(missing[:5])}; name their folder with --data-root, or with split, or their names with "
                         "shards='{000000..000146}.tar'")
    return paths


def _index_shards(paths: Sequence[Path]) -> list[dict[str, np.ndarray]]:
    """The index of every shard: from the cache, or by reading the shards' headers in parallel.

    Where several processes open the same shards for the first time, let the first one go ahead
    (:func:`pretrain.distributed.comm.main_process_first`), or each reads all headers.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        disable = True if len(paths) <= _THREADS else None  # None: shown only where stderr is a terminal
        return list(tqdm(pool.map(_cached_index, paths), desc="indexing shards", total=len(paths), unit="shard",
                         file=sys.stderr, disable=disable))


def _cached_index(shard: Path) -> dict[str, np.ndarray]:
    """The index of a shard, cached until the shard's size or modification time changes."""
    stat, file = os.stat(shard), _cache_file(shard)
    stamp = np.array([VERSION, stat.st_size, stat.st_mtime_ns])
    missing_or_damaged = contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    with missing_or_damaged, np.load(file, allow_pickle=False) as content:
        if np.array_equal(content["stamp"], stamp):
            return {name: content[name] for name in ARRAYS}
    index, damage = read_index(shard)
    if damage:
        print_log(f"{shard} is truncated or damaged: {damage}; its {len(index['offsets'])} readable samples are used",
                  "current", logging.WARNING)
        return index
    with contextlib.suppress(OSError):  # without a cache the next run reads the headers again
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
        with open(partial, "wb") as handle:
            np.savez(handle, stamp=stamp, **index)
        partial.replace(file)
    return index


def _cache_file(shard: Path) -> Path:
    """In ``.loco_det_index`` beside the shard, or in the user's cache folder where that cannot be written."""
    if os.access(shard.parent, os.W_OK):
        return shard.parent / ".loco_det_index" / f"{shard.name}.npz"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = hashlib.sha256(os.fsencode(shard.parent.resolve())).hexdigest()[:16]
    return root / "loco_det" / "tar_index" / folder / f"{shard.name}.npz"


def read_index(shard: Path) -> tuple[dict[str, np.ndarray], str]:
    """Reads the headers of a shard. Files of the same key, the path up to the base name's first dot, are one sample.

    A sample's image is its first file with an image's suffix, its label the integer in its ``.cls`` file.

    Returns:
        ``members``, the images' names in the archive, ``offsets`` and ``sizes`` of their bytes in the shard, and ``labels``
        (``NO_LABEL`` without a ``.cls``), ``(n,)`` each, in the shard's order; and what is wrong with the shard, or "".

    Raises:
        ValueError: the shard is not a tar archive, or a label is not an integer from 0.
    """
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    size, damage = os.path.getsize(shard), ""
    try:
        with tarfile.open(shard, mode="r:") as archive:
            while not damage and (member := archive.next()) is not None:
                archive.members.clear()  # every header would be kept
                if member.offset_data + member.size > size:
                    damage = f"it ends within {member.name}"
                elif member.isfile():
                    _add_member(archive, member, images, labels)
            archive.fileobj.seek(archive.offset)  # where tarfile saw no further header
            if not damage and archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                damage = f"it has no end mark at byte {archive.offset:,}"
    except tarfile.ReadError as error:
        if not images and size >= tarfile.BLOCKSIZE:
            raise ValueError(f"{shard} is not a tar archive ({error}); shards are .tar files without compression") from error
        damage = str(error)
    members = list(images.values())
    index = {
        "members": np.array([os.fsencode(member.name) for member in members], dtype=np.bytes_),
        "offsets": np.array([member.offset_data for member in members], dtype=np.int64),
        "sizes": np.array([member.size for member in members], dtype=np.int64),
        "labels": np.array([labels.get(key, NO_LABEL) for key in images], dtype=np.int64),
    }
    return index, damage


def _add_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, images: dict[str, tarfile.TarInfo], labels: dict[str, int]
) -> None:
    folder, _, base = member.name.rpartition("/")
    stem, _, extension = base.partition(".")
    if not stem or any(map(is_hidden, folder.split("/"))):
        return
    if extension == "cls":
        content = archive.extractfile(member).read(64).strip()
        if not content.isdigit():
            raise ValueError(f"{archive.name}: {member.name} holds {content.decode(errors='replace')!r}; a label is an "
                             "integer from 0")
        labels[f"{folder}/{stem}"] = int(content)
    elif f".{extension.lower()}" in IMAGE_SUFFIXES:
        images.setdefault(f"{folder}/{stem}", member)
