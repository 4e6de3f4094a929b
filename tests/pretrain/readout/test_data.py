"""Labelled data of readouts: views, subsets, what is refused, and images that cannot be decoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.dataset import SampleKey
from pretrain.errors import RunFailedError
from pretrain.readout.data import (
    NO_LABEL,
    LabelledImages,
    TestView,
    TrainView,
    balanced_subset,
    check_undecodable,
    evaluation_loader,
    load_labelled_data,
    rank_within_class,
    training_loader,
)
from tests.pretrain.readout.drawn import ColouredSource, drawn_data, write_class_folders


def gradient(width: int, height: int) -> Image.Image:
    """An image whose red channel is the column and whose green channel the row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


def test_the_test_view_crops_the_centre_of_photographs():
    """Short side 256/224 of the size, then the centre: of a 128x64 image at 56 the columns 36 to 91, rows 4 to 59."""
    view = TestView(56)(gradient(128, 64))
    assert view.shape == (3, 56, 56)
    assert view[0, 0].tolist() == list(range(36, 92))
    assert view[1, :, 0].tolist() == list(range(4, 60))


@pytest.mark.parametrize("side", [16, 32])
def test_the_test_view_takes_small_square_images_whole(side):
    """At the size itself the pixels are untouched, and nothing is cropped from a smaller one."""
    image = gradient(side, side)
    view = TestView(32)(image)
    expected = torch.from_numpy(np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert torch.equal(view, expected)


def test_a_training_view_depends_on_its_key_alone():
    """Whatever the generator's state: same key, same view; another epoch, another view."""
    dataset = LabelledImages(ColouredSource(6), np.arange(6), TrainView(16))
    first, label = dataset[SampleKey(0, 2, 4)]
    torch.manual_seed(9)
    assert torch.equal(first, dataset[SampleKey(0, 2, 4)][0])
    assert not torch.equal(first, dataset[SampleKey(0, 3, 4)][0])
    assert (label, first.shape, first.dtype) == (1, (3, 16, 16), torch.uint8)


def test_a_balanced_subset_is_even_nested_and_seeded():
    """As even as there are images: of 50, 30 and 2 images and 42 asked for, the small class gives both, the others 20."""
    labels = np.repeat([0, 1, 2], [50, 30, 2])
    subset = balanced_subset(labels, 42, seed=0)
    assert np.bincount(labels[subset]).tolist() == [20, 20, 2]
    assert (np.diff(subset) > 0).all()
    assert set(balanced_subset(labels, 9, seed=0)) < set(subset)
    assert not np.array_equal(subset, balanced_subset(labels, 42, seed=1))
    assert balanced_subset(labels, 82, seed=0).tolist() == list(range(82))
    for size in (2, 83):
        with pytest.raises(ValueError, match=f"limit is {size}; it must lie between the number of classes, 3, and"):
            balanced_subset(labels, size, seed=0)


def test_ranks_within_a_class_are_a_permutation_of_each_class():
    """Every class's images get the places 0 to n - 1, in random order."""
    labels = np.random.default_rng(0).integers(0, 4, 200)
    ranks = rank_within_class(labels, np.random.default_rng(1))
    for label in range(4):
        own = ranks[labels == label]
        assert sorted(own) == list(range(len(own)))
        assert own.tolist() != sorted(own)


def test_only_the_subset_is_loaded():
    """Both loaders draw from the chosen images and from nothing else."""
    data = drawn_data()
    dataset = LabelledImages(data.train, np.array([3, 8, 9, 20]), TestView(16))
    assert dataset.labels.tolist() == [0, 2, 0, 2]
    sampler = training_loader(dataset, 2, 0, seed=5).sampler
    assert sorted(key.index for key in sampler) == [3, 8, 9, 20]
    batches = list(evaluation_loader(dataset, 3, 0))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 2, 0, 2]


def test_undecodable_images_have_no_label_and_are_bounded():
    """One of 200 is flagged and named; three of 200 end the run."""
    for broken, fails in (([7], False), ([7, 8, 9], True)):
        dataset = LabelledImages(ColouredSource(200, broken=broken), np.arange(200), TestView(8))
        labels = torch.cat([labels for _, labels in evaluation_loader(dataset, 64, 0)])
        assert (labels == NO_LABEL).nonzero().flatten().tolist() == broken
        if fails:
            with pytest.raises(RunFailedError, match="3 of 200 images cannot be decoded.*drawn image 7"):
                check_undecodable(dataset, torch.device("cpu"))
        else:
            assert check_undecodable(dataset, torch.device("cpu")) == 1


def test_folders_are_opened_with_their_splits(tmp_path):
    """Train and val by default; the record says what was read."""
    root = write_class_folders(tmp_path / "set")
    data = load_labelled_data("folder", root, limit=6, seed=3)
    assert data.record == dict(source="folder", root="set", train_split="train", test_split="val", train_images=6,
                               test_images=6, classes=3, limit=6)
    assert np.bincount(data.train.labels[data.train_indices]).tolist() == [2, 2, 2]


def test_data_that_no_classifier_can_use_are_refused(tmp_path):
    """No images, one class, other classes in the test set, one split for both: each is told with its mend."""
    root = write_class_folders(tmp_path / "set")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    one = write_class_folders(tmp_path / "one", classes=1)
    other = write_class_folders(tmp_path / "other")
    (other / "val" / "class2").rename(other / "val" / "dog")
    (other / "train").rename(other / "learn")
    cases = [
        (tmp_path / "empty", {}, "holds no image"),
        (tmp_path / "none", {}, "does not have the folders train and val"),
        (one, {}, "at least two"),
        (other, dict(train_split="learn", test_split="val"), "only 'learn' has 'class2'; only 'val' has 'dog'"),
        (root, dict(train_split="train", test_split="train"), "training and test split are both 'train'"),
    ]
    for folder, options, message in cases:
        with pytest.raises(ValueError, match=message):
            load_labelled_data("folder", folder, **options)
