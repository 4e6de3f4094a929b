"""Reproducible random subsets of a data set's images, such as COCO-10K and COCO-1K.

The LoCo paper averages over five random splits of train2017 and gives no lists. Here a split is a
function of its seed and the image ids alone: ids are ranked by the SHA-256 of
``"{seed}:{image_id}"`` and the first n are taken. That is sampling without replacement, independent
of the order of the annotation file, the platform and any random-number library, and of one seed the
smaller subset lies within the larger. (mmdet's ``split_coco.py`` samples with replacement and so
yields fewer images than asked for.)

Split i of a protocol has the seed ``S + i``, with ``S = 0`` by default: see :func:`split_seed`.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.engine.work_dir import write_json

__all__ = ["image_ids_sha256", "select_image_ids", "split_seed", "write_split", "write_splits"]


def split_seed(split: int, base_seed: int = 0) -> int:
    """Seed of a protocol's split: ``base_seed + split``.

    Raises:
        ValueError: If ``split`` is negative.
    """
    if split < 0:
        raise ValueError(f"splits are counted from 0, got {split}")
    return base_seed + split


def select_image_ids(image_ids: Iterable[int], size: int, seed: int) -> list[int]:
    """Choose a random subset of image ids that depends on nothing but its arguments' values.

    Args:
        image_ids: Ids of all images, distinct, in any order.
        size: Number of ids to choose, from 1 to the number of ids.
        seed: Any integer. Of one seed, a smaller subset is contained in a larger one.

    Returns:
        The chosen ids in ascending order.

    Raises:
        TypeError: If an id or the seed is not an integer.
        ValueError: If ids repeat, or ``size`` is not between 1 and the number of ids.
    """
    ids = _distinct_sorted(image_ids)
    if not 1 <= size <= len(ids):
        raise ValueError(f"size must be from 1 to the number of image ids, {len(ids)}; got {size}")
    seed = operator.index(seed)

    def rank(image_id: int) -> bytes:
        return hashlib.sha256(f"{seed}:{image_id}".encode("ascii")).digest()

    return sorted(sorted(ids, key=rank)[:size])


def image_ids_sha256(image_ids: Iterable[int]) -> str:
    r"""SHA-256 of a set of image ids, in hexadecimal.

    The text that is hashed has the ids in ascending order, in decimal, each followed by ``\n``, in
    ASCII: what ``sort -n ids.txt | sha256sum`` prints for a file with one id per line.

    Args:
        image_ids: Distinct ids, in any order.

    Raises:
        TypeError: If an id is not an integer.
        ValueError: If ids repeat.
    """
    text = "".join(f"{image_id}\n" for image_id in _distinct_sorted(image_ids))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def write_split(path: str | os.PathLike[str], image_ids: Iterable[int], seed: int) -> None:
    """Write a split as JSON: ``{"seed": …, "sha256": …, "image_ids": […]}``, ids ascending.

    The file appears whole or not at all. Folders that lack are made.

    Args:
        path: File to write; replaced where it exists.
        image_ids: The ids of the split, distinct.
        seed: The seed that they were chosen with.

    Raises:
        TypeError: If an id or the seed is not an integer.
        ValueError: If ids repeat.
    """
    write_json(path, _record(image_ids, seed))


def write_splits(
    out_dir: str | os.PathLike[str], image_ids: Iterable[int], size: int, num_splits: int, base_seed: int = 0
) -> list[Path]:
    """Write ``split_0.json`` … into a folder, as :func:`write_split` does. A split that is there already stays.

    Args:
        out_dir: Folder to write to; made where it lacks.
        image_ids: Ids of all images, distinct, in any order.
        size: Number of images of each split.
        num_splits: Number of splits, at least 1.
        base_seed: Seed of split 0; split i has the seed ``base_seed + i``.

    Returns:
        The files.

    Raises:
        TypeError: If an id is not an integer.
        ValueError: If ids repeat, there are fewer than ``size``, or a file of this name has other content. Nothing is
            written then.
    """
    if num_splits < 1:
        raise ValueError(f"the number of splits must be at least 1, got {num_splits}")
    ids = _distinct_sorted(image_ids)
    if size > len(ids):
        raise ValueError(f"splits of {size} images are asked for, but there are only {len(ids)} images; "
                         "ask for smaller ones")
    seeds = {Path(out_dir) / f"split_{split}.json": split_seed(split, base_seed) for split in range(num_splits)}
    records = {file: _record(select_image_ids(ids, size, seed), seed) for file, seed in seeds.items()}
    existing = [file for file in records if file.exists()]
    for file in existing:
        if not _holds(file, records[file]):
            raise ValueError(f"{file} exists with other content: another size, seed or data set; choose another --out or "
                             "delete it")
    for file in records.keys() - set(existing):
        write_json(file, records[file])
    return list(records)


def _record(image_ids: Iterable[int], seed: int) -> dict[str, Any]:
    ids = _distinct_sorted(image_ids)
    return {"seed": operator.index(seed), "sha256": image_ids_sha256(ids), "image_ids": ids}


def _holds(file: Path, record: dict[str, Any]) -> bool:
    try:
        return json.loads(file.read_bytes()) == record
    except ValueError:  # not ours, or damaged
        return False


def _distinct_sorted(image_ids: Iterable[int]) -> list[int]:
    """Ids as ascending plain integers; a ``ValueError`` names the first that occurs twice."""
    seen: set[int] = set()
    for value in image_ids:
        image_id = operator.index(value)
        if image_id in seen:
            raise ValueError(f"image id {image_id} occurs more than once")
        seen.add(image_id)
    return sorted(seen)
