"""Images of evaluations: views, subsets, what is refused, and corrupt images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.dataset import SampleKey, check_corrupt
from pretrain.errors import RunFailedError
from pretrain.eval.data import (
    NO_LABEL,
    CentreView,
    LabelledImages,
    TrainView,
    balanced_subset,
    evaluation_loader,
    fingerprint,
    load_labelled_data,
    load_unlabelled_images,
    rank_within_class,
)
from tests.pretrain.eval.synthetic import ColouredSource, synthetic_data, write_class_folders


def gradient(width: int, height: int) -> Image.Image:
    """An image whose red channel is the column and whose green channel the row."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8))


def test_the_test_view_crops_the_centre_of_photographs():
    """Short side 256/224 of the size, then the centre: of a 128x64 image at 56 the columns 36 to 91, rows 4 to 59."""
    view = CentreView(56)(gradient(128, 64))
    assert view.shape == (3, 56, 56)
    assert view[0, 0].tolist() == list(range(36, 92))
    assert view[1, :, 0].tolist() == list(range(4, 60))


@pytest.mark.parametrize("side", [16, 32])
def test_the_test_view_takes_small_square_images_whole(side):
    """At the size itself the pixels are untouched, and nothing is cropped from a smaller one."""
    image = gradient(side, side)
    view = CentreView(32)(image)
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
    data = replace(synthetic_data(), train_indices=np.array([3, 8, 9, 20]))
    assert sorted(key.index for key in data.train_loader(2).sampler) == [3, 8, 9, 20]
    batches = list(evaluation_loader(data.train_images(), 3, 0))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 2, 0, 2]


def test_corrupt_images_have_no_label_and_are_bounded():
    """One of 200, or of 20, is flagged and named; three of 200, two of 20 and all of one end the run."""
    for size, corrupt, fails in ((200, [7], False), (200, [7, 8, 9], True), (20, [7], False), (20, [7, 8], True),
                                (1, [0], True)):
        dataset = LabelledImages(ColouredSource(size, corrupt=corrupt), np.arange(size), CentreView(8))
        labels = torch.cat([labels for _, labels in evaluation_loader(dataset, 64, 0)])
        assert (labels == NO_LABEL).nonzero().flatten().tolist() == corrupt
        if fails:
            message = f"{len(corrupt)} of {size} images .*synthetic image {corrupt[0]}"
            with pytest.raises(RunFailedError, match=message):
                check_corrupt(dataset)
        else:
            assert check_corrupt(dataset) == {corrupt[0]}


def test_folders_are_opened_with_their_splits(tmp_path):
    """Train and val by default; the record says what was read."""
    root = write_class_folders(tmp_path / "set")
    data = load_labelled_data("folder", root, limit=6, seed=3)
    assert data.record == dict(source="folder", options={}, root="set", train_split="train", test_split="val",
                               train_images=6, test_images=6, classes=3, limit=6,
                               fingerprint=fingerprint([data.train, data.test], root))
    assert np.bincount(data.train.labels[data.train_indices]).tolist() == [2, 2, 2]


def test_data_that_no_classifier_can_use_are_refused(tmp_path):
    """No images, one class, other classes in the test set, training images in the test set."""
    root = write_class_folders(tmp_path / "set")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    one = write_class_folders(tmp_path / "one", classes=1)
    other = write_class_folders(tmp_path / "other")
    (other / "val" / "class2").rename(other / "val" / "dog")
    write_lists(root, train=[("train/class0/0.png", 0), ("train/class1/1.png", 1)],
                val=[("val/class0/0.png", 0), ("train/class1/1.png", 1)])
    cases = [
        ("folder", tmp_path / "empty", {}, "holds no image"),
        ("folder", one, {}, "at least two"),
        ("folder", other, {}, "dog"),
        ("folder", root, dict(train_split="train", test_split="train"), "share 18 of the 18"),
        (dict(type="file_list", file="{split}.txt"), root, {}, "share 1 of the 2"),
    ]
    for source, folder, options, message in cases:
        with pytest.raises(ValueError, match=message):
            load_labelled_data(source, folder, **options)


def write_lists(root, **lists):
    """Writes ``root/<name>.txt`` with lines ``path label``."""
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("".join(f"{path} {label}\n" for path, label in lines))


def test_the_fingerprint_distinguishes_sets_of_one_name(tmp_path):
    """A copy elsewhere has the same one, subsets included; another image, and another label, another."""
    first, copy = (write_class_folders(tmp_path / place / "set") for place in ("a", "b"))
    known = load_labelled_data("folder", first).record["fingerprint"]
    assert len(known) == 64
    assert load_labelled_data("folder", copy, limit=6, seed=1).record["fingerprint"] == known
    (copy / "val" / "class0" / "0.png").rename(copy / "val" / "class0" / "other.png")
    assert load_labelled_data("folder", copy).record["fingerprint"] != known

    lines = [(f"train/class{label}/{label}.png", label) for label in range(3)]
    write_lists(first, train=lines, val=[("val/class0/0.png", 0)], other=[("val/class0/0.png", 1)])
    source = dict(type="file_list", file="{split}.txt")
    records = [load_labelled_data(source, first, "train", split).record for split in ("val", "other")]
    assert records[0]["fingerprint"] != records[1]["fingerprint"]
    assert records[0]["options"] == dict(file="{split}.txt")


def test_images_without_labels(tmp_path):
    """The test split, or all images where there is none."""
    root = write_class_folders(tmp_path / "set")
    images, record = load_unlabelled_images("folder", root, None, None, 0, 16)
    assert (record["split"], record["images"], len(images)) == ("val", 6, 6)
    images, record = load_unlabelled_images("folder", root / "train" / "class0", None, None, 0, 16)
    assert (record["split"], record["images"]) == (None, 6)
    assert images[SampleKey(0, 0, 0)][1] == 0
    few, fewer = (load_unlabelled_images("folder", root, "train", limit, 3, 16)[0].indices for limit in (6, 3))
    assert set(fewer) < set(few)
    with pytest.raises(ValueError, match="limit is 19"):
        load_unlabelled_images("folder", root, "train", 19, 3, 16)
    with pytest.raises(ValueError, match="stl10 is not in"):
        load_unlabelled_images("stl10", tmp_path, None, None, 0, 16)
