"""Labelled images for evaluations: views for training and testing, balanced subsets, and loaders over many processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from pretrain.data.dataset import KeyedSampler, SampleKey, seed_generator
from pretrain.data.decoding import CorruptImageError
from pretrain.data.shards import TarShards
from pretrain.data.sources import ImageDataset, ImageFiles, build_source, default_splits, labelled
from pretrain.data.views import CROP_RATIO
from pretrain.distributed import comm

RESIZE_RATIO = 256 / 224  # short side over crop, in the test views of ImageNet's customary protocol
MIN_SCALE = 0.08
NO_LABEL = -1  # of corrupt images


class TrainView:
    """A random crop covering 8 to 100% of the area, resized bilinearly, and a flip with p 0.5 (MoCo's ``main_lincls.py``).

    All randomness comes from torch's default generator.

    Args:
        size: side of the square view in pixels.
    """

    def __init__(self, size: int) -> None:
        self.transform = v2.Compose([
            v2.RandomResizedCrop(size, scale=(MIN_SCALE, 1.0), ratio=CROP_RATIO),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ])

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> ``(3, size, size)`` uint8."""
        return self.transform(image)


class CentreView:
    """The short side resized to 256/224 of the size, and the centre cropped out.

    A square image no larger than the size (CIFAR at 32) is taken whole: sets of such images have their objects fill the
    frame, and nobody crops them.

    Args:
        size: side of the square view in pixels.
    """

    def __init__(self, size: int) -> None:
        self.whole = v2.Compose([v2.Resize((size, size)), v2.PILToTensor()])
        self.centre = v2.Compose([v2.Resize(round(size * RESIZE_RATIO)), v2.CenterCrop(size), v2.PILToTensor()])
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image -> ``(3, size, size)`` uint8."""
        return (self.whole if image.width == image.height <= self.size else self.centre)(image)


class LabelledImages(Dataset):
    """Views of labelled images with their labels; a view is a function of its key alone.

    A corrupt image becomes a grey one with the label -1, which trains and counts nothing.

    Args:
        source: images and labels.
        indices: the images of the source that belong to the set, ascending.
        view: makes a view of an image, with torch's default generator if it is random.

    Attributes:
        corrupt: ``(len(source),)`` uint8 in shared memory, 1 where decoding failed in any worker.
    """

    def __init__(self, source: ImageDataset, indices: np.ndarray, view: TrainView | CentreView) -> None:
        self.source, self.indices, self.view = source, indices, view
        self.corrupt = torch.zeros(len(source), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """``(len,)`` int64."""
        return self.source.labels[self.indices]

    def load(self, index: int) -> Image.Image:
        """The source's image ``index``."""
        return self.source.load(index)

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """The set's indices into the source in a random order, the source's own way of it."""
        order = np.asarray(self.source.epoch_order(generator))
        return order[np.isin(order, self.indices)]

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        """A view ``(3, size, size)`` uint8 and its label."""
        label = int(self.source.labels[key.index])
        try:
            image = self.source.load(key.index)
        except CorruptImageError:
            self.corrupt[key.index] = 1
            image, label = Image.new("RGB", (32, 32), "grey"), NO_LABEL
        seed_generator(key)
        return self.view(image), label


class ShardSampler(Sampler):
    """This process's share of a set in the set's order: every image once over all processes, none twice."""

    def __init__(self, dataset: LabelledImages) -> None:
        self.indices = dataset.indices[comm.rank() :: comm.world_size()]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(0, 0, int(index)) for index in self.indices)


@dataclass(frozen=True)
class LabelledData:
    """The two sets of an evaluation.

    Attributes:
        train: images to learn from.
        test: images to measure on, of the same classes.
        train_indices: the images of ``train`` that are used.
        record: what they are, as plain data.
    """

    train: ImageDataset
    test: ImageDataset
    train_indices: np.ndarray
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.train.classes)

    def train_views(self, view: TrainView | CentreView) -> LabelledImages:
        """The training set with this view."""
        return LabelledImages(self.train, self.train_indices, view)

    def test_views(self, view: CentreView) -> LabelledImages:
        """The test set with this view."""
        return LabelledImages(self.test, np.arange(len(self.test)), view)


def load_labelled_data(
    source: str | Mapping,
    data_root: str | Path,
    train_split: str | None = None,
    test_split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> LabelledData:
    """Opens the training and test sets of an evaluation.

    Args:
        source: name or config of an image source, see :func:`pretrain.data.sources.build_source`.
        data_root: where it reads from.
        train_split: by default the source's own.
        test_split: by default the source's own.
        limit: use a class-balanced subset of this many training images.
        seed: of the subset.

    Raises:
        ValueError: the data are missing, unlabelled or of one class, train and test have different classes or share images,
            or the limit does not fit.
    """
    test_split_given = test_split is not None
    if train_split is None or test_split is None:
        defaults = default_splits(source, data_root)
        train_split, test_split = train_split or defaults[0], test_split or defaults[1]
    if train_split == test_split:
        raise ValueError(f"training and test split are both {train_split!r}; name different ones with --train-split and "
                         "--test-split")
    train = labelled(build_source(source, data_root, train_split))
    try:
        test = labelled(build_source(source, data_root, test_split))
    except ValueError as error:
        if test_split_given or train.splits is not None:
            raise
        raise ValueError(f"{error}; {test_split!r} is what an evaluation tests on by default, name another split with "
                         "--test-split") from error
    _check_disjoint(train, test, train_split, test_split)
    _check_same_classes(train, test, train_split, test_split)
    indices = np.arange(len(train)) if limit is None else balanced_subset(train.labels, limit, seed)
    name, options = name_and_options(source)
    record = dict(source=name, options=options, root=Path(data_root).resolve().name, train_split=train_split,
                  test_split=test_split, train_images=len(indices), test_images=len(test), classes=len(train.classes),
                  limit=limit, fingerprint=fingerprint([train, test], data_root))
    return LabelledData(train, test, indices, record)


def name_and_options(source: str | Mapping) -> tuple[str, dict[str, Any]]:
    """Name and options of an image source, which is given by its name or config."""
    if isinstance(source, str):
        return source, {}
    return source["type"], {key: value for key, value in source.items() if key != "type"}


def fingerprint(sets: Iterable[ImageDataset], data_root: str | Path) -> str:
    """SHA-256 over the sorted names, relative to ``data_root``, and labels of all images of the sets.

    It distinguishes data sets of one name; pixels are not looked at.
    """
    digest = hashlib.sha256()
    root = f"{Path(data_root)}{os.sep}"
    for source in sets:
        labels = source.labels.tolist()
        lines = sorted(f"{source.name(index).removeprefix(root)}\0{label}\n" for index, label in enumerate(labels))
        digest.update(f"{len(lines)}\n".encode())
        digest.update("".join(lines).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _check_disjoint(train: ImageDataset, test: ImageDataset, train_split: str, test_split: str) -> None:
    """Refuses to measure on training images, whatever names and links the splits reach them by."""
    known = set(_locations(train))
    shared = [index for index, location in enumerate(_locations(test)) if location in known]
    if shared:
        raise ValueError(f"splits {train_split!r} and {test_split!r} share {len(shared)} of the {len(test)} test images, "
                         f"such as {test.name(shared[0])}; an evaluation measures on images that it has not learned from: "
                         "name other splits with --train-split and --test-split, or fix the lists")


def _locations(source: ImageDataset) -> Iterator[str]:
    """Where every image really lies, links followed; its name for sources that are not files."""
    if isinstance(source, ImageFiles):
        folders: dict[str, tuple[str, set[str]]] = {}  # by their names: where they really lie, and the links in them
        for index in range(len(source)):
            folder, name = os.path.split(source.name(index))
            if folder not in folders:
                folders[folder] = os.path.realpath(folder), _links(folder)
            real, links = folders[folder]
            yield os.path.realpath(f"{real}/{name}") if name in links else f"{real}/{name}"
    elif isinstance(source, TarShards):
        shards: dict[str, str] = {}
        for index in range(len(source)):
            shard, separator, member = source.name(index).partition(".tar: ")
            if shard not in shards:
                shards[shard] = os.path.realpath(f"{shard}.tar")
            yield f"{shards[shard]}{separator}{member}"
    else:
        yield from map(source.name, range(len(source)))


def _links(folder: str) -> set[str]:
    if not os.path.isdir(folder):  # of a list, whose images need not all be there
        return set()
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_symlink()}


def _check_same_classes(train: ImageDataset, test: ImageDataset, train_split: str, test_split: str) -> None:
    if tuple(train.classes) == tuple(test.classes):
        return
    only_train = sorted(set(train.classes) - set(test.classes))
    only_test = sorted(set(test.classes) - set(train.classes))
    parts = [f"only {split!r} has {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}"
            for split, names in ((train_split, only_train), (test_split, only_test)) if names]
    raise ValueError(f"splits {train_split!r} and {test_split!r} have different classes: "
                     f"{'; '.join(parts) or 'their order differs'}; both need the same")


def rank_within_class(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The place ``(N,)`` of every image in a random order of the images of its own class, counted from 0."""
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks


def balanced_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices, ascending, of a random subset with as even a number of images a class as there are.

    A smaller subset of the same seed lies within a larger one.

    Raises:
        ValueError: the size is above the number of images, or below that of classes.
    """
    classes = len(np.unique(labels))
    if not classes <= size <= len(labels):
        raise ValueError(f"limit is {size}; it must lie between the number of classes, {classes}, and that of training "
                         f"images, {len(labels)}")
    generator = np.random.default_rng(seed)
    ranks = rank_within_class(labels, generator)
    class_order = generator.permutation(labels.max() + 1)  # which classes get one more where the size is no multiple
    return np.sort(np.lexsort((class_order[labels], ranks))[:size])


def training_loader(
    dataset: LabelledImages, batch_size: int, workers: int, seed: int, drop_last: bool = False
) -> DataLoader:
    """Shuffled batches; ``batch_size`` is that of all processes together.

    Raises:
        ValueError: the batch size is not divisible by the number of processes.
    """
    share, rest = divmod(batch_size, comm.world_size())
    if rest or not share:
        raise ValueError(f"batch size {batch_size} is not divisible by {comm.world_size()} processes")
    sampler = KeyedSampler(dataset, seed)
    return DataLoader(dataset, share, sampler=sampler, num_workers=workers, persistent_workers=workers > 0,
                      pin_memory=torch.cuda.is_available(), drop_last=drop_last and len(sampler) >= share)


def evaluation_loader(dataset: LabelledImages, batch_size: int, workers: int) -> DataLoader:
    """This process's share of the set in order; ``batch_size`` is that of one process."""
    return DataLoader(dataset, batch_size, sampler=ShardSampler(dataset), num_workers=workers,
                      pin_memory=torch.cuda.is_available())
