"""Sources whose images are files of their own: any folder, ImageNet's layout, and lists of paths."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from pretrain.data.decoding import IMAGE_SUFFIXES, decode_image, is_hidden, is_image, list_image_names, walk_images
from pretrain.data.sources import SOURCES, ImageSource, class_names


class ImageFiles(ImageSource):
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

    def path(self, index: int) -> Path:
        """The file of image ``index``."""
        return self.root / os.fsdecode(self._paths[index])

    def name(self, index: int) -> str:
        """The path."""
        return str(self.path(index))

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageSource`."""
        return decode_image(self.path(index))


@SOURCES.register_module("folder")
class ImageFolder(ImageFiles):
    """All images below a folder, whatever the nesting, in sorted order.

    Where no image lies in the folder itself, each of its sub-folders is a class; images may be nested deeper. With a split,
    the classes are those of ``data_root/train`` if it is there: a class that another split lacks shifts no label.

    Class folders without split folders, as those of Caltech-101, are split by ``test_share``. Within a class, the images
    whose paths below ``data_root`` have the smallest SHA-256 are "test", the others "train", on any machine.

    Args:
        data_root: the folder, or that of the splits.
        split: sub-folder with the split's images; with ``test_share`` "train", "test", or everything.
        test_share: of each class, between 0 and 1; a class of two images or more has at least one in either split.

    Raises:
        ValueError: the folder is missing or holds no image, or a split has a class that "train" has not; or ``test_share``
            is out of range, or the folder has split folders, or images outside of class folders.
    """

    how_to_label = "put its images into one sub-folder per class"

    def __init__(self, data_root: Path, split: str | None = None, test_share: float | None = None) -> None:
        root = data_root / split if split and test_share is None else data_root
        paths = list_image_names(root)
        self.description = f"image folder {root}"
        stray = _outside_of_folders(paths)
        if stray:
            self.how_to_label += f" ({stray})"
        found = tuple(sorted({path.partition("/")[0] for path in paths if "/" in path}))
        if test_share is not None:
            paths = _images_of_share(root, split, test_share, paths)
            self.description += f", split {split}" if split else ""
        elif split is None:
            _warn_of_splits(root, found)
        super().__init__(root, paths)
        if not stray:
            self.classes = self._classes(data_root, split, found)
            index = {name: label for label, name in enumerate(self.classes)}
            self.labels = np.array([index[path.partition("/")[0]] for path in paths], dtype=np.int64)

    def _classes(self, data_root: Path, split: str | None, found: tuple[str, ...]) -> tuple[str, ...]:
        if split in (None, "train") or not (data_root / "train").is_dir():
            return found
        expected = class_folders(data_root / "train")
        unknown = [name for name in found if name not in set(expected)]
        if unknown and expected:
            raise ValueError(f"{self.root} has class folders that {data_root / 'train'} has not: {_first(unknown)}; both "
                             "need the same classes")
        return expected or found

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """The folders train, and val or else test; with a ``test_share``, the splits that it makes."""
        if options.get("test_share") is not None:
            return ("train", "test")
        tests = [name for name in ("val", "test") if (data_root / name).is_dir()]
        if not (data_root / "train").is_dir() or not tests:
            raise ValueError(f"{data_root} does not have the folders train and val (or test); name the splits to train and "
                             "test on, arrange the images as <split>/<class>/<image>, or let class folders be split by the "
                             "source's option test_share=0.2")
        return ("train", tests[0])


def class_folders(root: Path) -> tuple[str, ...]:
    """The sub-folders of ``root`` that hold an image, sorted."""
    folders = [entry for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name)]
    return tuple(sorted(entry.name for entry in folders if any(walk_images(Path(entry.path)))))


def _splits_among(folders: Iterable[str]) -> list[str]:
    """The folders that are named as splits usually are, "test" or "val2017"."""
    return [name for name in folders if re.fullmatch(r"(train|val|valid|validation|test)(\d{4})?", name, re.IGNORECASE)]


def _warn_of_splits(root: Path, folders: Iterable[str]) -> None:
    splits = _splits_among(folders)
    if len(splits) > 1:
        train = next((name for name in splits if name.lower().startswith("train")), splits[0])
        print_log(f"image folder {root} holds the folders {', '.join(splits)}, and the images of all of them are taken; for "
                  f"one alone name it as split (in pretraining --cfg-options train_dataloader.dataset.split={train})",
                  logger="current", level=logging.WARNING)


def _outside_of_folders(paths: Sequence[str]) -> str:
    """How many images lie in no sub-folder, and the first of them; "" where all do."""
    stray = [path for path in paths if "/" not in path]
    return f"{len(stray)} of {len(paths)} lie in none, {stray[0]} for one" if stray else ""


def _images_of_share(root: Path, split: str | None, test_share: float, paths: Sequence[str]) -> list[str]:
    """Those of ``paths`` that are in the split, in their order; see :class:`ImageFolder`."""
    if not isinstance(test_share, float) or not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; a share lies between 0 and 1, say 0.2")
    if split not in (None, "train", "test"):
        raise ValueError(f"split is {split!r}, but test_share makes the splits train and test")
    if stray := _outside_of_folders(paths):
        raise ValueError(f"test_share splits class folders, but of {root}'s images {stray}; move them into one")
    by_class: dict[str, list[str]] = {}
    for path in paths:
        by_class.setdefault(path.partition("/")[0], []).append(path)
    if given := _splits_among(by_class):
        raise ValueError(f"test_share splits class folders, but {root} holds the folders {', '.join(given)}; leave it out")
    test: set[str] = set()
    for members in by_class.values():
        count = min(max(round(test_share * len(members)), 1), len(members) - 1)
        test.update(sorted(members, key=lambda path: hashlib.sha256(os.fsencode(path)).digest())[:count])
    if not test:
        raise ValueError(f"test_share finds no image to test on: every class folder of {root} holds a single one")
    return [path for path in paths if split is None or (path in test) == (split == "test")]


@SOURCES.register_module("imagenet")
class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012) or a subset of its classes: ``{train,val}/<WordNet id>/*.JPEG``.

    Args:
        data_root: the folder that holds train and val.
        split: "train" or "val".

    Raises:
        ValueError: the layout is another one, or the classes of train and val differ.
    """

    splits = ("train", "val")
    how_to_label = "unpack every class of ImageNet into a folder of its own"

    def __init__(self, data_root: Path, split: str | None = None) -> None:
        split = split or "train"
        root = data_root / split
        if not root.is_dir():
            raise ValueError(f"ImageNet is not in {data_root}: train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG are "
                             f"expected, but there is no {split}; get ILSVRC 2012 from "
                             "https://image-net.org/download-images and unpack it there")
        flat = [entry.name for entry in os.scandir(root) if entry.is_file() and is_image(entry.name)]
        if flat:
            raise ValueError(f"{root} holds {len(flat)} images outside of class folders, {min(flat)} for one; move them "
                             "into one folder per WordNet id, which for val is done by "
                             "https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh")
        archives = sorted(path.name for path in root.glob("n*.tar"))
        if archives:
            raise ValueError(f"{root} holds archives of classes ({_first(archives)}); unpack each into a folder of its name "
                             "and move it away")
        super().__init__(data_root, split)
        self.description = f"ImageNet {split} in {root}"
        other = [name for name in self.classes if not re.fullmatch(r"n\d{8}", name)]
        if other:
            raise ValueError(f"{root} has folders that are no WordNet ids (n01440764, say): {_first(other)}; for other "
                             "layouts choose source='folder'")

    def _classes(self, data_root: Path, split: str | None, found: tuple[str, ...]) -> tuple[str, ...]:
        train = data_root / "train"
        expected = class_folders(train) if split == "val" and train.is_dir() else found
        different = sorted(set(expected) ^ set(found))
        if different:
            raise ValueError(f"train ({len(expected)} classes) and val ({len(found)}) in {data_root} do not have the same "
                             f"classes; only one of them has images of {_first(different)}")
        return found

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """Train and val: the test set's labels are not public."""
        return ("train", "val")


class _Line(NamedTuple):
    """A line of a list: its number from 1, the path and the label that it holds."""

    number: int
    path: str
    label: str | None


@SOURCES.register_module("file_list")
class FileList(ImageFiles):
    """The images of a text file with one ``path`` or ``path label`` a line, in its order.

    The label is what follows the last tab or, in a line without one, the last space, unless that ends as files do: paths
    may hold spaces. It is the name of a class or, if all labels are integers, its index from 0. With a split, the
    classes are those of the list of "train" if there is one. A path that stands twice is an image that counts twice.

    Args:
        data_root: the folder that the paths are relative to.
        file: the list, relative to ``data_root``; with "{split}" where the name of a split belongs.
        split: which list.
        classes: names of the classes or their number, where the list of "train" does not hold all of them.

    Raises:
        ValueError: a list is missing, empty or unreadable (the line is named), a label is out of range or not known, or
            none of the first images exists.
    """

    how_to_label = "write a label after each path"

    def __init__(
        self, data_root: Path, file: str, split: str | None = None, classes: Sequence[str] | int | None = None
    ) -> None:
        if ("{split}" in file) != (split is not None):
            raise ValueError(f"file is {file!r} and split is {split!r}; a split and '{{split}}' in the file's name need "
                             "each other, or all splits would hold the same images")
        path = data_root / file.replace("{split}", split or "")
        lines = _read_list(path)
        super().__init__(data_root, [line.path for line in lines])
        self.description = f"list {path}"
        if not any(self.path(index).exists() for index in range(min(len(self), 20))):
            raise ValueError(f"{path}, line 1: {self.path(0)} does not exist, nor do the images of the next lines; paths "
                             f"are relative to the data root, {data_root}, and a tab divides a path that holds spaces from "
                             "its label")
        if lines[0].label is not None:
            train = data_root / file.replace("{split}", "train")
            reference = _read_list(train) if split not in (None, "train") and train.is_file() else lines
            self.classes = _list_classes(path, [line for line in reference if line.label is not None] or lines, classes)
            self.labels = _list_labels(path, lines, self.classes, by_index=classes is not None)
        _report_repeated(path, lines)

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """Train and val, which take the place of "{split}" in the file's name."""
        return ("train", "val")


def _read_list(path: Path) -> list[_Line]:
    if not path.is_file():
        raise ValueError(f"list of images {path} does not exist; give its path relative to the data root as file")
    lines = list(_parse_list(path))
    if not lines:
        raise ValueError(f"list of images {path} is empty; a path per line is expected")
    for line in lines:
        if (line.label is None) != (lines[0].label is None):
            raise ValueError(f"{path}, line {line.number}: {'no' if line.label is None else 'a'} label, unlike line "
                             f"{lines[0].number}; label every line or none")
    return lines


def _parse_list(path: Path) -> Iterator[_Line]:
    for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: not UTF-8 text ({error.reason}); save the list as UTF-8") from error
        if not text.strip():
            continue
        separator = "\t" if "\t" in text else " "
        name, _, label = text.strip(" \r").rpartition(separator)
        if not name.strip() or (separator == " " and _ends_a_path(name, label)):
            name, label = text, ""
        if "\0" in text or not name.strip() or (separator == "\t" and not text.rpartition("\t")[0].strip()):
            raise ValueError(f"{path}, line {number}: {text[:80]!r} is no 'path' or 'path label'")
        yield _Line(number, name.strip(), label.strip() or None)


def _ends_a_path(head: str, tail: str) -> bool:
    """Whether "head tail" is a path with a space: ``my photo.gif``, or ``my photo.heic`` as ``my`` has no suffix."""
    suffix = os.path.splitext(tail)[1].lower()
    return suffix in IMAGE_SUFFIXES or (not os.path.splitext(head)[1] and bool(re.fullmatch(r"\.[a-z]\w{2,4}", suffix)))


def _list_classes(path: Path, lines: list[_Line], classes: Sequence[str] | int | None) -> tuple[str, ...]:
    if classes is not None:
        return class_names(classes, 0)
    labels = {line.label for line in lines}
    if not all(map(_is_integer, labels)):
        return tuple(sorted(labels))
    count = max(map(int, labels)) + 1
    if count > 1_000_000:
        raise ValueError(f"{path} has the label {count - 1}, which is out of range for indices of classes from 0; for names "
                         "that look like numbers give classes")
    return class_names(None, max(count, 1))


def _list_labels(path: Path, lines: list[_Line], classes: tuple[str, ...], by_index: bool) -> np.ndarray:
    """``(len(lines),)`` int64; ``by_index``: a list of integers alone counts named classes."""
    index = {name: label for label, name in enumerate(classes)}
    if by_index and all(_is_integer(line.label) for line in lines) and not any(map(_is_integer, classes)):
        index = {str(label): label for label in range(len(classes))}
    labels = np.empty(len(lines), dtype=np.int64)
    for position, (number, _, label) in enumerate(lines):
        if label not in index and _is_integer(label):
            label = str(int(label))  # 007 is 7
        if label not in index:
            known = list(index)
            raise ValueError(f"{path}, line {number}: the label {label!r} is out of range: the {len(known)} classes are "
                             f"{_first(known)}; mend the list or give classes, the names of all classes or their number")
        labels[position] = index[label]
    return labels


def _is_integer(label: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", label, re.ASCII) is not None


def _report_repeated(path: Path, lines: list[_Line]) -> None:
    seen: dict[str, _Line] = {}
    repeated = []
    for line in lines:
        first = seen.setdefault(line.path, line)
        if first.label != line.label:
            raise ValueError(f"{path}, line {line.number}: {line.path} is labelled {line.label!r}, but {first.label!r} on "
                             f"line {first.number}; an image has one label")
        if first is not line:
            repeated.append(line)
    if repeated:
        print_log(f"{path}: {len(repeated)} lines repeat the path of an earlier one, line {repeated[0].number} "
                  f"({repeated[0].path}) for one; such an image counts as often as it is listed", logger="current",
                  level=logging.WARNING)


def _first(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
