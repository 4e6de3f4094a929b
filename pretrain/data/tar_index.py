"""Where the samples lie in a tar shard, found once and cached beside it."""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import uuid
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pretrain.data.decoding import IMAGE_SUFFIXES, is_hidden

VERSION = 2  # raise whenever the index of an unchanged shard changes
NO_LABEL = -1
_CACHE_FOLDER = ".loco_det_index"
_THREADS = 8


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard that have an image, in the shard's order.

    Attributes:
        members: ``(n,)`` bytes, the images' names in the archive.
        offsets: ``(n,)`` int64, where the images' bytes begin in the shard.
        sizes: ``(n,)`` int64, how many they are.
        labels: ``(n,)`` int64, ``NO_LABEL`` for a sample without one.
        damage: what is wrong with the shard; empty for a sound one.
        stamp: ``(2,)`` int64, :func:`shard_stamp` of the file that was indexed.
    """

    members: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    damage: str
    stamp: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def labelled_samples(self) -> ShardIndex:
        """The index of the samples that have a label."""
        kept = self.labels != NO_LABEL
        return replace(self, members=self.members[kept], offsets=self.offsets[kept], sizes=self.sizes[kept],
                       labels=self.labels[kept])


def shard_stamp(shard: Path | int) -> np.ndarray:
    """The size and modification time (ns) of a shard, a path or an open file's descriptor; ``(2,)`` int64."""
    stat = os.stat(shard)
    return np.array([stat.st_size, stat.st_mtime_ns], dtype=np.int64)


def index_shards(shards: Sequence[Path]) -> list[ShardIndex]:
    """The index of every shard: from the cache, or by reading the shard's headers in parallel.

    An index is kept in ``.loco_det_index`` beside the shard or, where that folder is not writable, in
    ``$XDG_CACHE_HOME/loco_det`` (``~/.cache/loco_det``), and made anew when the shard's size or modification time has
    changed. A bar on stderr shows the progress where there are more shards than threads.

    Nothing here waits for other processes. Where several open the same shards for the first time, let the first one go ahead
    (:func:`pretrain.distributed.comm.main_process_first`, as :func:`pretrain.run.pretrain` does), or each reads all.

    Raises:
        ValueError: a shard is no tar archive, or a label is no integer from 0.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        indices = pool.map(_cached_index, shards)
        disable = True if len(shards) <= _THREADS else None  # None: shown only where stderr is a terminal
        return list(tqdm(indices, desc="indexing shards", total=len(shards), unit="shard", file=sys.stderr, disable=disable))


def read_index(shard: Path) -> ShardIndex:
    """Reads the headers of a shard. Files of the same key, the path up to the base name's first dot, are one sample.

    A sample's image is its first file with an image's suffix, its label the integer in its ``.cls`` file.

    Raises:
        ValueError: the shard is no tar archive, or a label is no integer from 0.
    """
    stamp = shard_stamp(shard)  # before the headers: who writes meanwhile is noticed when images are read
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, mode="r:") as archive:
            damage = _scan(archive, images, labels)
    except tarfile.ReadError as error:  # of the first header
        if stamp[0] >= tarfile.BLOCKSIZE:
            raise ValueError(f"{shard} is no tar archive ({error}); shards are .tar files without compression") from error
        damage = "it is empty"
    members = list(images.values())
    return ShardIndex(
        members=np.array([os.fsencode(member.name) for member in members], dtype=np.bytes_),
        offsets=np.array([member.offset_data for member in members], dtype=np.int64),
        sizes=np.array([member.size for member in members], dtype=np.int64),
        labels=np.array([labels.get(key, NO_LABEL) for key in images], dtype=np.int64),
        damage=damage,
        stamp=stamp,
    )


def _scan(archive: tarfile.TarFile, images: dict[str, tarfile.TarInfo], labels: dict[str, int]) -> str:
    """Fills ``images`` and ``labels`` and returns what is wrong with the archive, "" for nothing."""
    size = os.path.getsize(archive.name)
    try:
        while (member := archive.next()) is not None:
            archive.members.clear()  # every header would be kept
            if member.offset_data + member.size > size:
                return f"it ends within {member.name}"
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.lower().partition(".")
            if not member.isfile() or not stem or any(map(is_hidden, folder.split("/"))):
                continue
            key = f"{folder}/{base[:len(stem)]}"
            if extension == "cls":
                labels[key] = _parse_label(archive, member)
            elif f".{extension}" in IMAGE_SUFFIXES:
                images.setdefault(key, member)
    except tarfile.ReadError as error:
        return str(error)
    archive.fileobj.seek(archive.offset)  # where tarfile saw no further header
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        return f"it has no readable header and no end mark at byte {archive.offset:,}"
    return ""


def _parse_label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    content = archive.extractfile(member).read(64).strip()
    if not content.isdigit() or len(content) > 18:  # int64
        raise ValueError(f"{archive.name}: {member.name} holds {content.decode(errors='replace')!r}; a label is an integer "
                         "from 0 in ASCII digits")
    return int(content)


def _cached_index(shard: Path) -> ShardIndex:
    stamp = shard_stamp(shard)
    places = [shard.parent / _CACHE_FOLDER / f"{shard.name}.npz", _user_cache(shard)]
    for place in places:
        index = _load_index(place, stamp)
        if index is not None:
            return index
    index = read_index(shard)
    for place in places:
        try:
            _store_index(place, index)
            break
        except OSError:  # nobody may write there; without any cache the next run reads the headers again
            continue
    return index


def _user_cache(shard: Path) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = hashlib.sha256(os.fsencode(shard.parent.resolve())).hexdigest()[:16]
    return root / "loco_det" / "tar_index" / folder / f"{shard.name}.npz"


def _load_index(file: Path, stamp: np.ndarray) -> ShardIndex | None:
    try:
        with np.load(file, allow_pickle=False) as content:
            if content["version"] != VERSION or not np.array_equal(content["stamp"], stamp):
                return None
            arrays = {field.name: content[field.name] for field in fields(ShardIndex)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or damaged
        return None
    return ShardIndex(**dict(arrays, damage=str(arrays["damage"])))


def _store_index(file: Path, index: ShardIndex) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        with open(partial, "wb") as handle:
            np.savez(handle, version=VERSION, **{field.name: getattr(index, field.name) for field in fields(ShardIndex)})
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
