"""The order of training images: orientations, passes, processes, and going on within it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import loco_det.register  # noqa: F401  isort: skip

from loco_det.datasets.sampling import AspectRatioSampler
from tests.pretrain.processes import run_in_processes


class Sizes:
    """What the sampler uses of a data set: 40 images, every third of them tall, one square."""

    def __len__(self) -> int:
        return 40

    def get_data_info(self, index: int) -> dict:
        if index == 1:
            return dict(width=20, height=20)
        return dict(width=20, height=30) if index % 3 == 0 else dict(width=30, height=20)


def batches(sampler: AspectRatioSampler) -> np.ndarray:
    """``(number of batches, batch size, 3)``: seed, pass, image."""
    return np.array(list(sampler)).reshape(-1, sampler.batch_size, 3)


def is_tall(indices: np.ndarray) -> np.ndarray:
    return indices % 3 == 0


@pytest.mark.parametrize("iterations", [None, 50])
def test_batches_are_of_one_orientation(iterations):
    """Wide with wide (a square image is wide), tall with tall; the length is that of the order."""
    sampler = AspectRatioSampler(Sizes(), batch_size=4, iterations=iterations, seed=3)
    found = batches(sampler)
    assert len(found) * 4 == len(sampler)
    tall = is_tall(found[..., 2])
    assert (tall.all(1) | ~tall.any(1)).all()
    assert tall.any() and not tall.all()
    assert (found[..., 0] == 3).all()


def test_an_epoch_has_no_image_twice_and_the_next_another_order():
    """14 tall and 26 wide images are 3 and 6 batches of 4; what is left over differs between epochs."""
    sampler = AspectRatioSampler(Sizes(), batch_size=4, seed=0)
    seen = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        indices = batches(sampler)[..., 2].ravel()
        assert len(indices) == len(set(indices)) == 36
        seen.append(indices)
    assert not np.array_equal(seen[0], seen[1])
    assert set(seen[0]) | set(seen[1]) | set(seen[2]) == set(range(40))


def test_iterations_take_all_images_equally_often():
    """50 batches of 4 are 5 passes: of an orientation counts differ by 1 at most, and a pass has no image twice."""
    order = batches(AspectRatioSampler(Sizes(), batch_size=4, iterations=50, seed=0)).reshape(-1, 3)
    counts = Counter(order[:, 2].tolist())
    assert sorted(counts) == list(range(40))
    for tall in (False, True):
        of_orientation = [count for index, count in counts.items() if is_tall(np.array(index)) == tall]
        assert max(of_orientation) - min(of_orientation) <= 1
    assert len({tuple(key) for key in order[:, 1:].tolist()}) == len(order)


def test_few_images_of_one_orientation_fill_batches_over_many_passes():
    """A batch larger than the set is filled by reshuffled passes, but not in epochs of one pass."""
    sampler = AspectRatioSampler(Sizes(), batch_size=64, iterations=3, seed=0)
    assert batches(sampler).shape == (3, 64, 3)
    with pytest.raises(ValueError, match="40 training images, 26 of them wide, do not fill a batch of 64"):
        AspectRatioSampler(Sizes(), batch_size=64)


@pytest.mark.parametrize("iterations", [None, 12])
def test_starting_within_an_epoch_leaves_out_what_was_seen(iterations):
    """``start`` samples are dropped from the order, nothing else changes."""
    sampler = AspectRatioSampler(Sizes(), batch_size=4, iterations=iterations, seed=1)
    whole = list(sampler)
    sampler.start = 8
    assert list(sampler) == whole[8:]


def order_of_share(batch_size: int) -> list:
    return list(AspectRatioSampler(Sizes(), batch_size, iterations=12, seed=1))


@pytest.mark.slow
def test_two_processes_share_the_batches_of_one(tmp_path):
    """Batch by batch, their halves are the images that one process has."""
    shares = [np.array(share).reshape(12, 2, 3) for share in run_in_processes(order_of_share, 2, tmp_path, 2)]
    assert np.array_equal(np.concatenate(shares, axis=1), np.array(order_of_share(4)).reshape(12, 4, 3))
