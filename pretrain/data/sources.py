"""Image sources: data sets of images, with labels where there are any. Pretraining and evaluation share them.

A config names a source, ``source="cifar10"`` or ``source=dict(type="file_list", file="{split}.txt")``, beside the
``data_root`` that it reads from and the ``split`` of it. docs/pretraining.md lists the sources with their layouts.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from mmengine.logging import print_log
from mmengine.registry import Registry
from PIL import Image
from torch.utils.data import Dataset
from torchvision import datasets

from pretrain.data.decoding import decode_image, is_hidden, list_images
from pretrain.options import unknown_name

SOURCES = Registry(
    "image source", locations=["pretrain.data.sources", "pretrain.data.shards", "pretrain.data.object_crops"])


class ImageDataset(Dataset):
    """Images by index, with labels or without.

    Attributes:
        classes: class names; None for an unlabelled set.
        labels: ``(len,)`` int64 indices into ``classes``; None for an unlabelled set.
        description: what to call the set in messages.
        splits: the splits that the source has; None for whatever the data hold.
    """

    classes: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    description: str
    splits: ClassVar[tuple[str, ...] | None] = None

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """The splits that an evaluation trains and tests on; ``options`` are those of the config."""
        return ("train", "val")

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call image ``index`` in messages: its path, or for example "cifar10 train image 17"."""

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """Image ``index`` in RGB, upright.

        Raises:
            CorruptImageError: it cannot be read.
        """

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """A random order of all indices, ``(len,)`` int64; a shuffle, unless the images are read faster in another."""
        return generator.permutation(len(self))


def build_source(spec: str | Mapping, data_root: str | Path, split: str | None = None) -> ImageDataset:
    """Builds an image source from its name or a config ``dict(type=name, ...)``.

    Args:
        spec: the source.
        data_root: the folder that it reads from.
        split: part of the data; by default everything for a folder, a file list or tar shards, otherwise "train".

    Raises:
        ValueError: no source has that name, its options do not fit, or the data are missing or in another layout.
    """
    source, options = _resolve(spec)
    name = spec if isinstance(spec, str) else spec["type"]
    if source.splits is not None and split not in (None, *source.splits):
        raise ValueError(f"image source {name!r} has no split {split!r}; it has {', '.join(source.splits)}")
    arguments = dict(options, data_root=Path(data_root), split=split)
    try:
        inspect.signature(source).bind(**arguments)
    except TypeError as error:
        raise ValueError(f"options of image source {name!r} do not fit: {error}") from error
    return source(**arguments)


def default_splits(spec: str | Mapping, data_root: str | Path) -> tuple[str, str]:
    """The splits of a source that an evaluation trains and tests on by default.

    Raises:
        ValueError: there is no such source, or the data hold no such pair.
    """
    source, options = _resolve(spec)
    return source.default_splits(Path(data_root), **options)


def _resolve(spec: str | Mapping) -> tuple[type[ImageDataset], dict]:
    SOURCES.import_from_location()
    options = {"type": spec} if isinstance(spec, str) else dict(spec)
    name, known = options.pop("type", None), sorted(SOURCES.module_dict)
    if name not in known:
        raise unknown_name("image source", name, known)
    return SOURCES.module_dict[name], options


def labelled(source: ImageDataset) -> ImageDataset:
    """Returns the source if it can train and test a classifier.

    Raises:
        ValueError: it has no labels, or fewer than two classes.
    """
    if source.labels is None:
        raise ValueError(f"{source.description} has no labels: not every image has a class folder, a label in its list or a "
                         ".cls file; add them, or choose a source or split with labels")
    if len(source.classes) < 2:
        raise ValueError(f"{source.description} has only the class {source.classes[0]!r}, but at least two are needed")
    return source


def class_names(classes: Sequence[str] | int | None, labels: np.ndarray) -> tuple[str, ...]:
    """The classes' names from a source's option ``classes``: names, their number, or None for as many as ``labels`` need.

    Raises:
        ValueError: a name occurs twice, or a label is beyond the classes.
    """
    if classes is None or isinstance(classes, int):
        classes = range(int(labels.max()) + 1 if classes is None else classes)
    names = tuple(map(str, classes))
    if len(set(names)) < len(names):
        raise ValueError(f"classes holds a name twice: {', '.join(names)}")
    if labels.max() >= len(names):
        raise ValueError(f"the label {labels.max()} is out of range for {len(names)} classes; fix classes or the labels")
    return names


class ImageFiles(ImageDataset):
    """Images in files of their own.

    Args:
        root: the folder that ``paths`` are relative to.
        paths: one path an image.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.root = root
        # one array: the reference counts of a million strings would make every forked worker copy them
        self._paths = np.array([os.fsencode(path) for path in paths])

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """The path."""
        return str(self.root / os.fsdecode(self._paths[index]))

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        return decode_image(self.name(index))


@SOURCES.register_module("folder")
class ImageFolder(ImageFiles):
    """All images below a folder, whatever the nesting, in sorted order.

    Where no image lies in the folder itself, its sub-folders are the classes, as for torchvision's ``ImageFolder``; with a
    split, those of ``data_root/train`` if it is there, so that a class that another split lacks shifts no label.

    Class folders without split folders (Caltech-101, for example) are split by ``test_share``: within a class, the images
    whose paths below ``data_root`` have the smallest SHA-256 are "test", the others "train", on any machine.

    Args:
        data_root: the folder, or that of the splits.
        split: sub-folder with the split's images; with ``test_share`` "train", "test", or everything.
        test_share: of each class, between 0 and 1; a class of two images or more has at least one in either split.

    Raises:
        ValueError: the folder is missing or holds no image, a split has a class that "train" lacks, or ``test_share`` does
            not fit.
    """

    def __init__(self, data_root: Path, split: str | None = None, test_share: float | None = None) -> None:
        root = data_root / split if split and test_share is None else data_root
        paths = list_images(root)
        in_classes = all(os.sep in path for path in paths)
        self.description = f"image folder {root}"
        if test_share is not None:
            if not in_classes or split not in (None, "train", "test") or not 0 < test_share < 1:
                raise ValueError(f"test_share={test_share} splits the class folders of {root} into train and test: it lies "
                                 f"between 0 and 1, every image in a class folder, and split is not {split!r}")
            self.description += f", split {split}" if split else ""
            paths = paths if split is None else _share(paths, test_share, split)
        elif split is None and (root / "train").is_dir():
            print_log(f"all images of {root} are taken, not only those of train; split='train' takes these alone",
                      "current", logging.WARNING)
        super().__init__(root, paths)
        if in_classes:
            train = data_root / "train"
            of_train = _class_folders(train) if split and test_share is None and train.is_dir() else ()
            self.classes = of_train or _class_folders(root)
            index = {name: label for label, name in enumerate(self.classes)}
            found = [path.partition(os.sep)[0] for path in paths]
            if unknown := sorted(set(found) - set(self.classes)):
                raise ValueError(f"{root} has the class folder {unknown[0]}, which {train} lacks; both need the same")
            self.labels = np.array([index[name] for name in found], dtype=np.int64)

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """The folders train, and val or else test; with a ``test_share``, the splits that it makes."""
        if options.get("test_share") is not None:
            return ("train", "test")
        tests = [name for name in ("val", "test") if (data_root / name).is_dir()]
        if not (data_root / "train").is_dir() or not tests:
            raise ValueError(f"{data_root} does not have the folders train and val (or test); name the splits, arrange the "
                             "images as <split>/<class>/<image>, or split class folders by the option test_share=0.2")
        return ("train", tests[0])


def _class_folders(root: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name)))


def _share(paths: Sequence[str], test_share: float, split: str) -> list[str]:
    """Those of ``paths`` that are in the split, in their order; see :class:`ImageFolder`."""
    by_class: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(path)).digest()):
        by_class.setdefault(path.partition(os.sep)[0], []).append(path)
    test = {path for members in by_class.values()
            for path in members[: min(max(round(test_share * len(members)), 1), len(members) - 1)]}
    return [path for path in paths if (path in test) == (split == "test")]


@SOURCES.register_module("imagenet")
class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012) or some of its classes: ``{train,val}/<WordNet id>/*.JPEG``.

    Raises:
        ValueError: ``data_root`` has no such folders.
    """

    splits = ("train", "val")

    def __init__(self, data_root: Path, split: str | None = None) -> None:
        split = split or "train"
        if not (data_root / split).is_dir():
            raise ValueError(f"ImageNet is not in {data_root}: train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG are "
                             "expected; get ILSVRC 2012 from https://image-net.org/download-images and unpack it there")
        super().__init__(data_root, split)
        if self.labels is None:
            raise ValueError(f"{data_root / split} holds images outside of class folders; move them into one folder per "
                             "WordNet id, for val by https://github.com/soumith/imagenetloader.torch (valprep.sh)")
        self.description = f"ImageNet {split} in {data_root / split}"

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """Train and val: the test set's labels are not public."""
        return ("train", "val")


@SOURCES.register_module("file_list")
class FileList(ImageFiles):
    """The images of a text file with one ``path`` or ``path label`` a line, in its order.

    A label is an integer from 0 after a space or tab; all lines have one or none. Paths may hold spaces. The classes of a
    split are those of "train" if it is there.

    Args:
        data_root: the folder that the paths are relative to.
        file: the list, relative to ``data_root``; with "{split}" where the name of a split belongs.
        split: which list.
        classes: names of the classes or their number; by default as many as the labels show.

    Raises:
        ValueError: the list is missing or empty, only some lines have labels, or a label is beyond the classes.
    """

    def __init__(
        self, data_root: Path, file: str, split: str | None = None, classes: Sequence[str] | int | None = None
    ) -> None:
        if ("{split}" in file) != (split is not None):
            raise ValueError(f"file is {file!r} and split is {split!r}; a split and '{{split}}' in the file's name need "
                             "each other, or all splits would hold the same images")
        path = data_root / file.replace("{split}", split or "")
        paths, labels = _read_list(path)
        super().__init__(data_root, paths)
        self.description = f"list {path}"
        if labels is not None:
            train = data_root / file.replace("{split}", "train")
            of_train = _read_list(train)[1] if split and train.is_file() else None
            if classes is None and of_train is not None:
                classes = int(of_train.max()) + 1
            self.labels, self.classes = labels, class_names(classes, labels)


def _read_list(path: Path) -> tuple[list[str], np.ndarray | None]:
    """The paths of a list, and their labels, ``(N,)`` int64, if it has any."""
    if not path.is_file():
        raise ValueError(f"list of images {path} does not exist; give its path relative to the data root as file")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"list of images {path} is empty; a path per line is expected")
    entries = [line.rsplit(maxsplit=1) for line in lines]
    has_label = [len(entry) == 2 and entry[1].isdecimal() for entry in entries]
    if not any(has_label):
        return lines, None
    if not all(has_label):
        line = lines[has_label.index(False)]
        raise ValueError(f"{path}: {line!r} has no label, unlike other lines; end every line with an integer or none")
    return [entry[0] for entry in entries], np.array([int(entry[1]) for entry in entries])


class TorchvisionDataset(ImageDataset):
    """A data set of torchvision's, read from the files in its layout; nothing is downloaded.

    Args:
        data_root: torchvision's ``root``.
        split: one of ``splits``; "train" by default.

    Raises:
        ValueError: torchvision does not find the files, or their checksums are wrong.
    """

    reader: ClassVar[type[Dataset]]
    title: ClassVar[str]
    layout: ClassVar[str]
    splits = ("train", "test")

    def __init__(self, data_root: Path, split: str | None = None) -> None:
        self.split = split or "train"
        try:
            self.dataset = self.read(data_root)
        except (RuntimeError, ValueError, AssertionError) as error:
            download = f"torchvision.datasets.{self.reader.__name__}({str(data_root)!r}, download=True)"
            raise ValueError(f"{self.title} is not in {data_root}, or damaged ({error}); {self.layout} is expected there, "
                             f"as made by {download}") from error
        self.description = f"{self.title} {self.split} in {data_root}"
        labels = np.asarray(self.dataset.labels if hasattr(self.dataset, "labels") else self.dataset.targets, dtype=np.int64)
        if labels.min() >= 0:  # STL-10 gives unlabelled images -1
            self.labels, self.classes = labels, tuple(self.dataset.classes)

    def read(self, data_root: Path) -> Dataset:
        """Opens ``self.split``."""
        return self.reader(data_root, train=self.split == "train")

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """Train and test."""
        return ("train", "test")

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """For example "cifar10 train image 17"."""
        return f"{self.title} {self.split} image {index}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        return self.dataset[index][0].convert("RGB")


@SOURCES.register_module("cifar10")
class Cifar10(TorchvisionDataset):
    """CIFAR-10: 50,000 + 10,000 images of 32 × 32."""

    reader, title, layout = datasets.CIFAR10, "cifar10", "cifar-10-batches-py/ (the python version)"


@SOURCES.register_module("cifar100")
class Cifar100(TorchvisionDataset):
    """CIFAR-100 with its 100 fine classes."""

    reader, title, layout = datasets.CIFAR100, "cifar100", "cifar-100-python/"


@SOURCES.register_module("fashion_mnist")
class FashionMnist(TorchvisionDataset):
    """Fashion-MNIST: 60,000 + 10,000 gray images of 28 × 28, as RGB."""

    reader, title, layout = datasets.FashionMNIST, "fashion_mnist", "FashionMNIST/raw/*-ubyte (unpacked)"


@SOURCES.register_module("stl10")
class Stl10(TorchvisionDataset):
    """STL-10: images of 96 × 96, 5,000 train, 8,000 test and 100,000 unlabeled, which need 2.8 GB of memory."""

    reader, title, layout = datasets.STL10, "stl10", "stl10_binary/"
    splits = ("train", "test", "unlabeled", "train+unlabeled")

    def read(self, data_root: Path) -> Dataset:
        """See :class:`TorchvisionDataset`."""
        return self.reader(data_root, split=self.split)
