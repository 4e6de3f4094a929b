"""The standard sets, read from files in their published formats that the tests write themselves."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct

import numpy as np
import pytest
from torchvision import datasets

from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import build_source, labelled


def random_bytes(seed, *shape, high=256):
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


# CIFAR


def write_pickle(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Four images per batch in CIFAR-10's files; their checksums take the place of the published ones."""
    images = {name: random_bytes(i, 4, 3072) for i, (name, _) in enumerate(datasets.CIFAR10.train_list)}
    images["test_batch"] = random_bytes(9, 4, 3072)
    folder = tmp_path / "cifar-10-batches-py"
    md5 = {name: write_pickle(folder / name, {"data": data, "labels": [3, 1, 4, 9]}) for name, data in images.items()}
    names = [f"class{i}" for i in range(10)]
    meta = write_pickle(folder / "batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5[name]] for name in images if name != "test_batch"])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", dict(datasets.CIFAR10.meta, md5=meta))
    return tmp_path, images


def test_cifar10(cifar10):
    """Pixels are the planes of the pickles, red first; batches in order; labels and names from the files."""
    root, images = cifar10
    train, test = build_source("cifar10", root), build_source("cifar10", root, "test")
    assert (len(train), len(test)) == (20, 4)
    assert train.labels.tolist() == [3, 1, 4, 9] * 5
    assert train.classes == test.classes == tuple(f"class{i}" for i in range(10))
    planes = np.asarray(train.load(6)).transpose(2, 0, 1)
    assert np.array_equal(planes.ravel(), images["data_batch_2"][2])
    assert np.array_equal(np.asarray(test.load(3)).transpose(2, 0, 1).ravel(), images["test_batch"][3])
    assert train.name(17) == "cifar10 train image 17"
    assert labelled(test) is test


def test_cifar10_in_another_folder(cifar10):
    """The unpacked folder itself may be given, whatever its name."""
    root, images = cifar10
    for folder in ("cifar-10-batches-py", "renamed"):
        if not (root / folder).exists():
            shutil.copytree(root / "cifar-10-batches-py", root / folder)
        planes = np.asarray(build_source("cifar10", root / folder, "test").load(0)).transpose(2, 0, 1)
        assert np.array_equal(planes.ravel(), images["test_batch"][0])


def test_missing_and_damaged_cifar10(cifar10, tmp_path):
    """Folder, missing files and address; a file of another checksum is never unpickled."""
    root, _ = cifar10
    with pytest.raises(ValueError, match="cifar-10-batches-py does not hold data_batch_1, .*cifar-10-python.tar.gz"):
        build_source("cifar10", tmp_path / "none")
    with open(root / "cifar-10-batches-py" / "test_batch", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="is damaged: its MD5 is not that"):
        build_source("cifar10", root)
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(ValueError, match="does not hold data_batch_4; get https://www.cs.toronto.edu"):
        build_source("cifar10", root)


def test_cifar100(tmp_path, monkeypatch):
    """The fine labels and their names, not the twenty coarse ones."""
    folder, names = tmp_path / "cifar-100-python", [f"fine{i}" for i in range(100)]
    content = {"data": random_bytes(0, 2, 3072), "fine_labels": [99, 7], "coarse_labels": [1, 2]}
    md5 = {name: write_pickle(folder / name, content) for name in ("train", "test")}
    meta = write_pickle(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["a", "b"]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", dict(datasets.CIFAR100.meta, md5=meta))
    source = build_source("cifar100", tmp_path, "test")
    assert (source.classes, source.labels.tolist()) == (tuple(names), [99, 7])
    assert np.array_equal(np.asarray(source.load(1)).transpose(2, 0, 1).ravel(), content["data"][1])
    assert source.name(1) == "cifar100 test image 1"


# STL-10


@pytest.fixture
def stl10(tmp_path):
    """Three train, two test and four unlabelled images."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    images = {part: random_bytes(seed, count, 3, 96, 96) for seed, (part, count) in
              enumerate(dict(train=3, test=2, unlabeled=4).items())}
    for part, data in images.items():
        data.tofile(folder / f"{part}_X.bin")
    np.array([1, 10, 2], dtype=np.uint8).tofile(folder / "train_y.bin")
    np.array([3, 3], dtype=np.uint8).tofile(folder / "test_y.bin")
    return tmp_path, images


@pytest.mark.parametrize("split", ["train", "test", "unlabeled", "train+unlabeled"])
def test_stl10_is_read_as_by_torchvision(stl10, split, monkeypatch):
    """Every image and label is torchvision's, which reads all files into memory; mixed and unlabelled splits have none."""
    root, _ = stl10
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    ours, theirs = pickle.loads(pickle.dumps(build_source("stl10", root, split))), datasets.STL10(root, split)
    assert len(ours) == len(theirs)
    for index in range(len(ours)):
        assert np.array_equal(np.asarray(ours.load(index)), np.asarray(theirs[index][0]))
    if "unlabeled" in split:
        assert ours.labels is ours.classes is None
        with pytest.raises(ValueError, match=r"has no labels; use the splits train and test"):
            labelled(ours)
    else:
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.classes[0] == "airplane" and len(ours.classes) == 10


def test_damaged_stl10(stl10):
    """Missing, cut, unlabelled and mislabelled files are told apart; a file cut later fails at the image."""
    root, _ = stl10
    folder = root / "stl10_binary"
    source = build_source("stl10", root, "unlabeled")
    with open(folder / "unlabeled_X.bin", "r+b") as file:
        file.truncate(2 * 27648 + 5)
    with pytest.raises(CorruptImageError, match="stl10 unlabeled image 3 cannot be read from .*unlabeled_X.bin"):
        source.load(3)
    with pytest.raises(ValueError, match="unlabeled_X.bin is truncated: 55,301 bytes"):
        build_source("stl10", root, "train+unlabeled")
    np.array([1, 11, 2], dtype=np.uint8).tofile(folder / "train_y.bin")
    np.array([1], dtype=np.uint8).tofile(folder / "test_y.bin")
    for split, count in (("train", 3), ("test", 2)):
        with pytest.raises(ValueError, match=f"{split}_y.bin does not hold a label from 1 to 10 for each of {count} images"):
            build_source("stl10", root, split)
    (folder / "test_y.bin").unlink()
    with pytest.raises(ValueError, match="stl10_binary does not hold test_y.bin; get http://ai.stanford.edu"):
        build_source("stl10", folder, "test")


# Fashion-MNIST


def idx(array):
    """Bytes of an array in the IDX format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion_mnist(tmp_path):
    """Five train and three test images, the train ones packed."""
    arrays = {"train": (random_bytes(0, 5, 28, 28), random_bytes(1, 5, high=10)),
              "t10k": (random_bytes(2, 3, 28, 28), random_bytes(3, 3, high=10))}
    for part, (images, labels) in arrays.items():
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if part == "train":
                (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (tmp_path / name).write_bytes(idx(array))
    return tmp_path, arrays


def test_fashion_mnist(fashion_mnist):
    """Packed or not; three equal channels of the file's gray values."""
    root, arrays = fashion_mnist
    for split, part in (("train", "train"), ("test", "t10k")):
        source = build_source("fashion_mnist", root, split)
        images, labels = arrays[part]
        assert source.labels.tolist() == labels.tolist()
        loaded = np.stack([np.asarray(source.load(i)) for i in range(len(source))])
        assert np.array_equal(loaded, np.repeat(images[..., None], 3, axis=-1))
    assert source.classes[9] == "Ankle boot"


def test_fashion_mnist_where_torchvision_keeps_it(fashion_mnist, tmp_path):
    """FashionMNIST/raw, and the same arrays as torchvision's own reader."""
    root, _ = fashion_mnist
    raw = tmp_path / "other" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in root.glob("t10k*"):
        shutil.copy(file, raw)
        shutil.copy(file, raw / file.name.replace("t10k", "train"))
    ours = build_source("fashion_mnist", tmp_path / "other", "test")
    theirs = datasets.FashionMNIST(tmp_path / "other", train=False)
    assert np.array_equal(ours.images, theirs.data.numpy())
    assert ours.labels.tolist() == theirs.targets.tolist()
    assert ours.classes == tuple(theirs.classes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", gzip.compress(bytes(9000), mtime=0)[:15], "train-images-idx3-ubyte.gz is damaged"),
        ("train-images-idx3-ubyte.gz", b"PK, a zip", "train-images-idx3-ubyte.gz is damaged"),
        ("t10k-images-idx3-ubyte", idx(random_bytes(0, 3, 28, 28))[:-1], "t10k-images-idx3-ubyte is damaged"),
        ("t10k-images-idx3-ubyte", b"", "t10k-images-idx3-ubyte is damaged"),
        ("t10k-images-idx3-ubyte", bytes(2000), "does not start as an IDX file"),
        ("t10k-labels-idx1-ubyte", idx(random_bytes(0, 2, high=10)), "do not hold gray images with a label"),
        ("t10k-labels-idx1-ubyte", idx(np.array([1, 2, 10], dtype=np.uint8)), "a label from 0 to 9"),
    ],
)
def test_damaged_fashion_mnist(fashion_mnist, name, content, message):
    """Cut, foreign and inconsistent files are named."""
    root, _ = fashion_mnist
    (root / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build_source("fashion_mnist", root, "train" if name.startswith("train") else "test")


def test_missing_fashion_mnist(tmp_path):
    """Both names that a file may have, and the address."""
    with pytest.raises(ValueError, match="does not hold train-images-idx3-ubyte or train-images-idx3-ubyte.gz, .*get http"):
        build_source("fashion_mnist", tmp_path)
