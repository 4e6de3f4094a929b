"""Splits are the same on every machine, distinct between seeds and nested between sizes."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from loco_det.datasets.splits import image_ids_sha256, select_image_ids, write_splits

TRAIN2017 = range(1, 118288)  # as many images as train2017 has

# Computed apart from this project, for each seed with `sort`, `head`, `sort -n` and `sha256sum` on
# lines "<sha256 of seed:id> <id>".
PINNED = {
    (10000, 0): "94e9171d122031f7284039e65fc931c132103bbaa33acdd9eab373b901a0d1b3",
    (10000, 1): "98e92e87ea7bf73e5b676dcbfe262859f7ddd84e727cf0f6c42e082f8b641850",
    (10000, 2): "54d4d33a8ec41eb64db1bd83dccc6f8dfd009f2f8c2879db3c237b5f42b27ca4",
    (10000, 3): "7beed54a765d041e7fd0fb73bc27b11e88bf68888ac21ce93f918dec5310ad9e",
    (10000, 4): "083d74a5264649b35d7982c68c3a97fc7e37afdf954852b3bfa76228d8648ceb",
    (1000, 0): "34d92f21882af6703c8a5fec1ff304a884e7a09019a2cfefbe1a15c7a43ba296",
    (1000, 1): "d23fb0464b14d2e42a1c506bebfce02317c0c725d3780b080b4ed0c03ba576a2",
    (1000, 2): "6ef0ecfcc2be23af62f13e3107fe1800b1430e95c0d93b9675192577ac29492f",
    (1000, 3): "f7e0dd2ad26e20a7137469c82738c1e8ee08c6143e75a07c841e1fb4db608b64",
    (1000, 4): "df4f753dd94605d709d0e9b1146d60b0a86bdcddc92d8df0ae427c502d0db9f4",
}


@pytest.fixture(scope="module")
def splits() -> dict[tuple[int, int], list[int]]:
    """The splits of COCO-10K and COCO-1K, by size and seed."""
    return {key: select_image_ids(TRAIN2017, *key) for key in PINNED}


@pytest.mark.parametrize("key", PINNED, ids=str)
def test_pinned(splits: dict[tuple[int, int], list[int]], key: tuple[int, int]) -> None:
    """Every split has the size asked for and the hash found by an independent computation."""
    ids = splits[key]
    assert len(ids) == key[0] and ids == sorted(set(ids))
    assert set(ids) <= set(TRAIN2017)
    assert image_ids_sha256(ids) == PINNED[key]


def test_nested_and_distinct(splits: dict[tuple[int, int], list[int]]) -> None:
    """1K lies within 10K of the same seed, and splits overlap only as much as chance has it."""
    for seed in range(5):
        assert set(splits[1000, seed]) < set(splits[10000, seed])
    for first in range(5):
        for second in range(first):
            shared = len(set(splits[10000, first]) & set(splits[10000, second]))
            # Hypergeometric: mean 845.4, standard deviation 26.6; five deviations each way.
            assert 711 < shared < 980, (first, second, shared)


def test_independent_of_order_and_integer_type() -> None:
    """A shuffled file, or NumPy's integers, give the same ids as plain ascending ones."""
    ids = list(range(10, 500, 7))
    expected = select_image_ids(ids, 20, seed=3)
    shuffled = random.Random(0).sample(ids, len(ids))
    assert select_image_ids(iter(shuffled), 20, seed=3) == expected
    from_numpy = select_image_ids(np.array(shuffled), 20, seed=np.int64(3))
    assert from_numpy == expected and all(type(i) is int for i in from_numpy)


def test_rank_follows_the_definition() -> None:
    """For sizes up to all: exactly the ids whose hashes are smallest."""
    digest = {i: hashlib.sha256(b"-7:%d" % i).hexdigest() for i in (5, 17, 4, 123456789012, 0)}
    by_rank = sorted(digest, key=digest.__getitem__)
    for size in range(1, 6):
        assert select_image_ids(digest, size, seed=-7) == sorted(by_rank[:size])


@pytest.mark.parametrize("size", [0, -1, 4])
def test_impossible_sizes(size: int) -> None:
    """No subset is empty, and none is larger than the set (no silent repetition)."""
    with pytest.raises(ValueError, match=str(size)):
        select_image_ids([1, 2, 3], size, seed=0)


@pytest.mark.parametrize("call", [lambda ids: select_image_ids(ids, 2, seed=0), image_ids_sha256])
def test_impossible_ids(call) -> None:
    """Repeated ids are named; ids that are not integers are refused."""
    with pytest.raises(ValueError, match="image id 8"):
        call([9, 8, 1, 8])
    with pytest.raises(TypeError):
        call(["1", "2"])


def test_hash_is_of_decimal_lines() -> None:
    """The hashed text is one ascending id per line, so that sha256sum can check it."""
    expected = hashlib.sha256(b"2\n10\n300\n").hexdigest()
    assert image_ids_sha256([300, 2, 10]) == expected
    assert image_ids_sha256([2, 10, 301]) != expected


def test_write_splits(tmp_path: Path) -> None:
    """One file a seed, the same whatever the order of the ids; files that are there already are not touched."""
    files = write_splits(tmp_path, range(50), size=10, num_splits=3, base_seed=4)
    assert [file.name for file in files] == ["split_0.json", "split_1.json", "split_2.json"]
    for file, seed in zip(files, (4, 5, 6), strict=True):
        record = json.loads(file.read_text())
        assert record["seed"] == seed
        assert record["image_ids"] == select_image_ids(range(50), 10, seed)
    untouched = [file.stat().st_mtime_ns for file in files]
    more = write_splits(tmp_path, reversed(range(50)), size=10, num_splits=4, base_seed=4)
    assert [file.stat().st_mtime_ns for file in more[:3]] == untouched and more[3].exists()


def test_write_splits_never_overwrites_others(tmp_path: Path) -> None:
    """Another seed, size or data set, or a damaged file: named, and nothing is written."""
    write_splits(tmp_path, range(50), size=10, num_splits=1)
    before = (tmp_path / "split_0.json").read_bytes()
    for ids, size, seed in ((range(50), 10, 1), (range(50), 11, 0), (range(51, 99), 10, 0)):
        with pytest.raises(ValueError, match="split_0.json exists with other content"):
            write_splits(tmp_path, ids, size, num_splits=2, base_seed=seed)
    (tmp_path / "split_0.json").write_text("{")
    with pytest.raises(ValueError, match="split_0.json exists with other content"):
        write_splits(tmp_path, range(50), 10, num_splits=2)
    (tmp_path / "split_0.json").write_bytes(before)
    for size, num_splits, message in ((51, 1, "50 images"), (0, 1, "0 images"), (10, 0, "at least 1")):
        with pytest.raises(ValueError, match=message):
            write_splits(tmp_path, range(50), size, num_splits)
    assert [file.name for file in tmp_path.iterdir()] == ["split_0.json"]
    assert (tmp_path / "split_0.json").read_bytes() == before
