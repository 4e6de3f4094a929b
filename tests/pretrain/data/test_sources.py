"""Image sources: what is found, how it is labelled, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import SOURCES, build_source, default_splits, labelled


def make_images(root, *names):
    """Images below ``root``, each filled with a colour of its own."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (40 * number % 256, number, 7)).save(file)


def names_below(root, source):
    """The paths of a folder's images, relative to it."""
    return [source.name(index).removeprefix(f"{root}/") for index in range(len(source))]


def test_class_folders_are_labelled_as_by_torchvision(tmp_path):
    """Same classes and labels as ImageFolder's, images nested deeper included; and pixels."""
    make_images(tmp_path, "b/2.png", "b/deep/1.png", "a-b/3.png", "a/9.png", "a/10.PNG", "C/x.png")
    ours, theirs = build_source("folder", tmp_path), datasets.ImageFolder(tmp_path)
    assert ours.classes == tuple(theirs.classes)
    assert {ours.name(i): int(ours.labels[i]) for i in range(len(ours))} == dict(theirs.samples)
    assert ours.labels.dtype == np.int64
    for index in range(len(ours)):
        position = [path for path, _ in theirs.samples].index(ours.name(index))
        assert np.array_equal(np.asarray(ours.load(index)), np.asarray(theirs[position][0]))


def test_unlabelled_folders(tmp_path):
    """One image beside the sub-folders: all images are there, labels are not."""
    make_images(tmp_path, "top.png", "a/1.png", "a/b/c/2.png")
    source = build_source(dict(type="folder"), tmp_path)
    assert names_below(tmp_path, source) == ["a/1.png", "a/b/c/2.png", "top.png"]
    assert source.classes is source.labels is None
    with pytest.raises(ValueError, match=f"{tmp_path} has no labels"):
        labelled(source)


def test_splits_share_the_classes_of_train(tmp_path):
    """With b missing in val, c stays class 2; a class that train has not is refused; hidden folders are not classes."""
    make_images(tmp_path, *(f"train/{name}/1.png" for name in "abc"), "val/a/1.png", "val/c/1.png",
                "train/.ipynb_checkpoints/1.png")
    train, val = (build_source("folder", tmp_path, split) for split in default_splits("folder", tmp_path))
    assert train.classes == val.classes == ("a", "b", "c")
    assert val.labels.tolist() == [0, 2]
    make_images(tmp_path, "val/d/1.png")
    with pytest.raises(ValueError, match="val has the class folder d"):
        build_source("folder", tmp_path, "val")


def test_class_folders_are_split_by_a_share(tmp_path):
    """The smallest hashes of each class are test: at least one of two images, never a single one."""
    members = {name: [f"{name}/{number}.png" for number in range(count)] for name, count in (("a", 10), ("b", 2), ("c", 1))}
    make_images(tmp_path, *sum(members.values(), []))
    spec = dict(type="folder", test_share=0.3)
    train, test = (build_source(spec, tmp_path, split) for split in default_splits(spec, tmp_path))
    ranked = [sorted(members[name], key=lambda path: hashlib.sha256(path.encode()).digest()) for name in "ab"]
    expected = sorted(ranked[0][:3] + ranked[1][:1])
    assert names_below(tmp_path, test) == expected
    assert sorted(names_below(tmp_path, train) + expected) == sorted(sum(members.values(), []))
    assert train.classes == test.classes == ("a", "b", "c")
    assert [test.classes[label] for label in test.labels] == [name[0] for name in expected]
    assert len(build_source(spec, tmp_path)) == 13
    for share, split in ((1.0, "train"), (0.2, "val")):
        with pytest.raises(ValueError, match=f"test_share={share}"):
            build_source(dict(spec, test_share=share), tmp_path, split)


def test_default_splits(tmp_path):
    """Folders: train, and val before test; the others have fixed ones."""
    with pytest.raises(ValueError, match="does not have the folders train and val"):
        default_splits("folder", tmp_path)
    make_images(tmp_path, "train/a/1.png", "test/a/1.png")
    assert default_splits("folder", tmp_path) == ("train", "test")
    (tmp_path / "val").mkdir()
    assert default_splits(dict(type="folder"), tmp_path) == ("train", "val")
    expected = dict(imagenet=("train", "val"), file_list=("train", "val"), webdataset=("train", "val"),
                    stl10=("train", "test"), cifar10=("train", "test"), cifar100=("train", "test"),
                    fashion_mnist=("train", "test"), coco_objects=("train", "val"))
    assert {name: default_splits(name, tmp_path) for name in expected} == expected
    assert set(SOURCES.module_dict) == {"folder", *expected}


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("cifar11", None, "cifar10"),
        (dict(root="x"), None, "unknown image source None"),
        (dict(type="folder", recursive=True), None, "recursive"),
        ("file_list", None, "'file'"),
        ("cifar10", "val", "'val'; it has train, test"),
        ("folder", "train", "does not exist"),
    ],
)
def test_bad_specs_are_refused(spec, split, message, tmp_path):
    """The value and the names or options that would do are in the message."""
    with pytest.raises(ValueError, match=message):
        build_source(spec, tmp_path, split)


def test_a_source_survives_pickling_with_any_file_name(tmp_path):
    """Workers that are spawned get the same images; names need neither be ASCII nor valid UTF-8."""
    make_images(tmp_path, "ä/ö €.png", "a/b.png")
    odd = tmp_path / "a" / "\udcff.png"
    odd.write_bytes((tmp_path / "a" / "b.png").read_bytes())
    source = pickle.loads(pickle.dumps(build_source("folder", tmp_path)))
    names = {source.name(i) for i in range(3)}
    assert names == {str(tmp_path / "ä" / "ö €.png"), str(tmp_path / "a" / "b.png"), str(odd)}
    assert all(source.load(i).size == (6, 5) for i in range(3))


def test_imagenet(tmp_path):
    """Labels are indices of sorted WordNet ids, alike in both splits; train is the default; a flat val is refused."""
    with pytest.raises(ValueError, match="ILSVRC 2012"):
        build_source("imagenet", tmp_path)
    make_images(tmp_path, *(f"{split}/n0000000{i}/{i}.png" for split in ("train", "val") for i in (2, 1, 3)))
    source = build_source("imagenet", tmp_path)
    assert source.classes == build_source("imagenet", tmp_path, "val").classes == ("n00000001", "n00000002", "n00000003")
    assert source.labels.tolist() == [0, 1, 2]
    assert source.name(0) == str(tmp_path / "train/n00000001/1.png")
    make_images(tmp_path, "val/1.png")
    with pytest.raises(ValueError, match="valprep.sh"):
        build_source("imagenet", tmp_path, "val")


# Lists


def build_list(tmp_path, content, **options):
    """A source of ``list.txt`` with the given content."""
    (tmp_path / "list.txt").write_bytes(content.encode())
    return build_source(dict(type="file_list", file="list.txt", **options), tmp_path)


def test_lists(tmp_path):
    """The list's order; spaces in paths, tabs, Windows line ends, a byte order mark, absolute paths; labels or none."""
    make_images(tmp_path, "x/a b.png", "c.png", "d.png")
    source = build_list(tmp_path, f"\ufeffx/a b.png 2\r\n\r\nd.png\t0\r\n{tmp_path}/c.png 002\r\n")
    assert names_below(tmp_path, source) == ["x/a b.png", "d.png", "c.png"]
    assert (source.classes, source.labels.tolist()) == (("0", "1", "2"), [2, 0, 2])
    assert source.load(0).size == (6, 5)
    unlabelled = build_list(tmp_path, "x/a b.png\nc.png\ngone.png\n")
    assert names_below(tmp_path, unlabelled) == ["x/a b.png", "c.png", "gone.png"]
    assert unlabelled.classes is unlabelled.labels is None
    with pytest.raises(CorruptImageError, match=r"gone.png cannot be decoded"):
        unlabelled.load(2)


def test_classes_of_lists(tmp_path):
    """Names or their number, where the labels do not show all of them."""
    assert build_list(tmp_path, "a.png 2\n", classes=12).classes[11] == "11"
    named = build_list(tmp_path, "a.png 2\n", classes=["ant", "bee", "cow"])
    assert (named.classes, named.labels.tolist()) == (("ant", "bee", "cow"), [2])


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a.png 1\nb.png\n", {}, "'b.png' has no label"),
        ("a.png 0\nb.png 5\n", dict(classes=5), "label 5 is out of range"),
        ("a.png 0\n", dict(classes=["ant", "ant"]), "ant, ant"),
        ("\n", {}, "list.txt is empty"),
    ],
)
def test_bad_lists_are_refused(tmp_path, content, options, message):
    """With the offending line or value."""
    with pytest.raises(ValueError, match=message):
        build_list(tmp_path, content, **options)


def test_lists_of_splits(tmp_path):
    """A split needs its place in the name, and has the classes of train."""
    (tmp_path / "val.txt").write_text("a.png 1\n")
    assert build_source(dict(type="file_list", file="{split}.txt"), tmp_path, "val").classes == ("0", "1")
    (tmp_path / "train.txt").write_text("b.png 2\n")
    assert build_source(dict(type="file_list", file="{split}.txt"), tmp_path, "val").classes == ("0", "1", "2")
    for file, split in (("{split}.txt", None), ("val.txt", "val"), ("{split}.txt", "test")):
        with pytest.raises(ValueError, match=r"split|does not exist"):
            build_source(dict(type="file_list", file=file), tmp_path, split)


# Standard sets, in files of the published formats


def random_bytes(seed, *shape, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def write(file, content):
    """Writes bytes and returns their MD5."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize(("name", "reader", "key"), [("cifar10", datasets.CIFAR10, "labels"),
                                                     ("cifar100", datasets.CIFAR100, "fine_labels")])
def test_cifar(tmp_path, monkeypatch, name, reader, key):
    """Pixels are the planes of the pickles, red first; labels and names from the files; damaged files are refused."""
    planes = {file: random_bytes(seed, 4, 3072) for seed, (file, _) in enumerate([*reader.train_list, *reader.test_list])}
    folder, lists = tmp_path / reader.base_folder, {}
    for kind in ("train_list", "test_list"):
        lists[kind] = [[file, write(folder / file, pickle.dumps({"data": planes[file], key: [3, 1, 4, 9]}))]
                       for file, _ in getattr(reader, kind)]
        monkeypatch.setattr(reader, kind, lists[kind])
    names = [f"class{i}" for i in range(10)]
    meta = write(folder / reader.meta["filename"], pickle.dumps({reader.meta["key"]: names}))
    monkeypatch.setattr(reader, "meta", dict(reader.meta, md5=meta))
    train, test = build_source(name, tmp_path), pickle.loads(pickle.dumps(build_source(name, tmp_path, "test")))
    assert (train.labels.tolist(), test.labels.tolist()) == ([3, 1, 4, 9] * len(lists["train_list"]), [3, 1, 4, 9])
    assert train.classes == test.classes == tuple(names)
    for source, kind in ((train, "train_list"), (test, "test_list")):
        pixels = np.asarray(source.load(len(source) - 1)).transpose(2, 0, 1)
        assert np.array_equal(pixels.ravel(), planes[lists[kind][-1][0]][3])
    assert train.name(2) == f"{name} train image 2"
    write(folder / lists["test_list"][0][0], b"damaged")
    with pytest.raises(ValueError, match=f"{name} is not in {tmp_path}, or damaged .*{reader.base_folder}"):
        build_source(name, tmp_path)


def test_stl10(tmp_path, monkeypatch):
    """Column-major planes; labels from 1 in the file; the unlabelled splits have none."""
    folder, images = tmp_path / "stl10_binary", {}
    for seed, (part, count) in enumerate(dict(train=3, test=2, unlabeled=4).items()):
        images[part] = random_bytes(seed, count, 3, 96, 96)
        write(folder / f"{part}_X.bin", images[part].tobytes())
        write(folder / f"{part}_y.bin", bytes([1, 10, 2][:count]))
    write(folder / "class_names.txt", "\n".join(f"class{i}" for i in range(10)).encode())
    with pytest.raises(ValueError, match="stl10 is not in .*stl10_binary"):  # of other checksums than the published
        build_source("stl10", tmp_path)
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    train, both = build_source("stl10", tmp_path), build_source("stl10", tmp_path, "train+unlabeled")
    assert (train.labels.tolist(), train.classes[9]) == ([0, 9, 1], "class9")
    assert np.array_equal(np.asarray(train.load(1)), images["train"][1].transpose(2, 1, 0))
    assert np.array_equal(np.asarray(both.load(6)), images["unlabeled"][3].transpose(2, 1, 0))
    for split in ("unlabeled", "train+unlabeled"):
        with pytest.raises(ValueError, match="has no labels"):
            labelled(build_source("stl10", tmp_path, split))


def test_fashion_mnist(tmp_path):
    """Three equal channels of the file's gray values."""
    with pytest.raises(ValueError, match="fashion_mnist is not in .*FashionMNIST/raw"):
        build_source("fashion_mnist", tmp_path)
    arrays = {}
    for seed, (part, count) in enumerate(dict(train=5, t10k=3).items()):
        arrays[part] = random_bytes(seed, count, 28, 28), random_bytes(seed + 2, count, high=10)
        for name, array in zip(("images-idx3", "labels-idx1"), arrays[part], strict=True):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            write(tmp_path / "FashionMNIST" / "raw" / f"{part}-{name}-ubyte", header + array.tobytes())
    for split, part in (("train", "train"), ("test", "t10k")):
        source = build_source("fashion_mnist", tmp_path, split)
        loaded = np.stack([np.asarray(source.load(i)) for i in range(len(source))])
        assert np.array_equal(loaded, np.repeat(arrays[part][0][..., None], 3, axis=-1))
        assert source.labels.tolist() == arrays[part][1].tolist()
    assert source.classes[9] == "Ankle boot"
