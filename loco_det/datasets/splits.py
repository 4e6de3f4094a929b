"""Reproducible random subsets of a data set's images, such as COCO-10K and COCO-1K.

The LoCo paper averages over five random splits of train2017 and gives no lists. Here a split is a function of its seed and
the image ids alone: ids are ranked by the SHA-256 of ``"{seed}:{image_id}"`` and the first n are taken. That is sampling
without replacement, independent of the order of the annotation file, the platform and any random-number library, and of one
seed the smaller subset lies within the larger. (mmdet's ``split_coco.py`` samples with replacement, so that it yields fewer
images than asked for.) Split i of a protocol has the seed ``S + i``, with ``S = 0`` by default.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrain.engine.work_dir import write_json


def select_image_ids(image_ids: Iterable[int], size: int, seed: int) -> list[int]:
    """A random subset of image ids, ascending, that depends on nothing but its arguments' values.

    Args:
        image_ids: ids of all images, distinct, in any order.
        size: number of ids to choose, from 1 to the number of ids.
        seed: any integer; of one seed, a smaller subset is contained in a larger one.

    Raises:
        TypeError: an id is not an integer.
        ValueError: ids repeat, or there are fewer than ``size``.
    """
    ids = _distinct_sorted(image_ids)
    if not 1 <= size <= len(ids):
        raise ValueError(f"splits of {size} images are asked for, but there are {len(ids)} images; ask for 1 to {len(ids)}")
    return sorted(sorted(ids, key=lambda image_id: hashlib.sha256(f"{seed}:{image_id}".encode()).digest())[:size])


def image_ids_sha256(image_ids: Iterable[int]) -> str:
    r"""SHA-256 of a set of distinct image ids, in hexadecimal.

    The text that is hashed has the ids in ascending order, in decimal, each followed by ``\n``: what
    ``sort -n ids.txt | sha256sum`` prints for a file with one id per line.
    """
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in _distinct_sorted(image_ids)).encode()).hexdigest()


def split_record(image_ids: Iterable[int], seed: int) -> dict[str, Any]:
    """What is written of a split: ``{"seed": …, "sha256": …, "image_ids": […]}``, ids ascending."""
    ids = _distinct_sorted(image_ids)
    return {"seed": seed, "sha256": image_ids_sha256(ids), "image_ids": ids}


def write_splits(
    out_dir: str | Path, image_ids: Iterable[int], size: int, num_splits: int, base_seed: int = 0
) -> list[Path]:
    """Writes ``split_0.json`` … as :func:`split_record` has it. A split that is there already stays.

    Args:
        out_dir: folder to write to; made where it lacks.
        image_ids: ids of all images, distinct, in any order.
        size: number of images of each split.
        num_splits: number of splits, at least 1.
        base_seed: seed of split 0; split i has the seed ``base_seed + i``.

    Returns:
        The files.

    Raises:
        ValueError: ids repeat, there are fewer than ``size``, or a file of this name has other content. Nothing is written
            then.
    """
    if num_splits < 1:
        raise ValueError(f"the number of splits must be at least 1, got {num_splits}")
    ids = list(image_ids)
    seeds = range(base_seed, base_seed + num_splits)
    records = {Path(out_dir) / f"split_{split}.json": split_record(select_image_ids(ids, size, seed), seed)
               for split, seed in enumerate(seeds)}
    existing = {file for file in records if file.exists()}
    for file in sorted(existing):
        if not _holds(file, records[file]):
            raise ValueError(f"{file} exists with other content: another size, seed or data set; choose another --out or "
                             "delete it")
    for file in records.keys() - existing:
        write_json(file, records[file])
    return list(records)


def _holds(file: Path, record: dict[str, Any]) -> bool:
    try:
        return json.loads(file.read_bytes()) == record
    except ValueError:  # not ours, or damaged
        return False


def _distinct_sorted(image_ids: Iterable[int]) -> list[int]:
    """Ids as ascending plain integers."""
    ids = sorted(map(operator.index, image_ids))
    for one, other in zip(ids, ids[1:], strict=False):
        if one == other:
            raise ValueError(f"image id {one} occurs more than once")
    return ids
