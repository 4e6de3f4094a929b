"""The two-view data set: a pure function of its key; the sampler's order; the rule for corrupt images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.data.dataset import KeyedSampler, SampleKey, TwoViewImages, check_corrupt
from pretrain.data.decoding import CorruptImageError, list_images
from pretrain.errors import RunFailedError

VIEWS = dict(size=32)


def test_a_sample_depends_on_its_key_alone(image_folder):
    """Whatever the generator's state, cache or order: same key, same views; another epoch, other views."""
    plain, cached = TwoViewImages(image_folder, VIEWS), TwoViewImages(image_folder, VIEWS, cache=True)
    torch.manual_seed(1)
    first = plain[SampleKey(0, 3, 5)]["views"]
    torch.manual_seed(2)
    cached[SampleKey(0, 3, 4)]
    assert torch.equal(first, cached[SampleKey(0, 3, 5)]["views"])
    assert not torch.equal(first, plain[SampleKey(0, 4, 5)]["views"])
    assert not torch.equal(first, plain[SampleKey(1, 3, 5)]["views"])
    assert first.shape == (2, 3, 32, 32)
    assert first.dtype == torch.uint8
    assert not torch.equal(first[0], first[1])


def test_the_sampler_shuffles_each_epoch_again(image_folder):
    """Every image once an epoch, in another order each epoch, and the same order for the same seed."""
    dataset = TwoViewImages(image_folder, VIEWS)
    orders = []
    for epoch in (0, 1, 0):
        sampler = KeyedSampler(dataset, seed=7)
        sampler.set_epoch(epoch)
        orders.append([key.index for key in sampler])
        assert all((key.seed, key.epoch) == (7, epoch) for key in sampler)
    assert sorted(orders[0]) == list(range(8))
    assert orders[0] == orders[2] == np.random.default_rng([7, 0]).permutation(8).tolist() != orders[1]


def test_the_sampler_takes_the_order_of_the_source(image_folder):
    """An epoch runs in the order that the source gives it for the sampler's seed and epoch."""
    dataset = TwoViewImages(image_folder, VIEWS)
    dataset.source.epoch_order = lambda generator: np.roll(np.arange(8), generator.integers(1, 8))
    sampler = KeyedSampler(dataset, seed=2)
    sampler.set_epoch(4)
    shift = int(np.random.default_rng([2, 4]).integers(1, 8))
    assert [key.index for key in sampler] == np.roll(np.arange(8), shift).tolist()


def test_source_and_split_choose_the_images(image_folder):
    """Views are those of the same image from another source."""
    (image_folder / "train.txt").write_text("part0/4.png\npart1/3.png\npart1/1.png\n")
    listed = TwoViewImages(image_folder, VIEWS, source=dict(type="file_list", file="{split}.txt"), split="train")
    folder = TwoViewImages(image_folder, VIEWS, split="part1")
    assert (len(listed), len(folder)) == (3, 4)
    first, second = SampleKey(0, 2, 0), SampleKey(0, 2, 1)
    assert torch.equal(listed[second]["views"], folder[second]["views"])
    assert not torch.equal(listed[first]["views"], folder[first]["views"])


def test_corrupt_images_are_replaced_and_flagged(image_folder):
    """The next image takes its place."""
    (image_folder / list_images(image_folder)[2]).write_bytes(b"")
    dataset = TwoViewImages(image_folder, VIEWS)
    assert dataset[SampleKey(0, 0, 2)]["views"].shape == (2, 3, 32, 32)
    assert dataset.corrupt.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_no_decodable_image_is_an_error(tmp_path):
    """A folder of broken files does not loop for ever."""
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(CorruptImageError, match="none of the 1 images .*a.png"):
        TwoViewImages(tmp_path, VIEWS)[SampleKey(0, 0, 0)]


@pytest.mark.parametrize(("size", "corrupt", "fails"), [(200, 2, False), (200, 3, True), (8, 1, False), (8, 2, True)])
def test_too_many_corrupt_images_stop_the_run(image_folder, size, corrupt, fails, monkeypatch):
    """More than 1%, but at least one is tolerated; each is reported once, with the reason."""
    dataset = TwoViewImages(image_folder, VIEWS)
    names, logged = list_images(image_folder), []
    monkeypatch.setattr("pretrain.data.dataset.print_log", lambda message, logger, level: logged.append(message))
    for index in range(corrupt):
        (image_folder / names[index]).write_bytes(b"")
    dataset.source._paths = np.resize(dataset.source._paths, size)
    dataset.corrupt = torch.zeros(size, dtype=torch.uint8)
    dataset.corrupt[:corrupt] = 1
    if fails:
        with pytest.raises(RunFailedError, match=f"{corrupt} of {size} images .*{names[0]} cannot be decoded"):
            check_corrupt(dataset)
    else:
        assert check_corrupt(dataset) == check_corrupt(dataset, reported={0}) == set(range(corrupt))
    for name, times in ((names[0], 1), (names[corrupt - 1], 1 + (not fails and corrupt > 1)), (names[corrupt], 0)):
        assert sum(f"{name} cannot be decoded" in message for message in logged) == times
    assert check_corrupt(dataset, max_share=0.5) == set(range(corrupt))
