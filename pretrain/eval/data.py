"""Images of evaluations: training and test views, class-balanced subsets, and loaders over many processes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
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
from pretrain.data.sources import ImageDataset, build_source, default_splits, labelled
from pretrain.data.views import CROP_RATIO
from pretrain.distributed import comm

RESIZE_RATIO = 256 / 224  # short side over crop, in the test views of ImageNet's customary protocol
MIN_SCALE = 0.08
DEFAULT_IMAGE_SIZE = 224  # where the size of the pretraining is not recorded
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
    """Views of images with their labels; a view is a function of its key alone.

    A corrupt image becomes a grey one with the label -1, which trains and counts nothing.

    Args:
        source: images, with labels or (all images then have label 0) without.
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

    def load(self, index: int) -> Image.Image:
        """The source's image ``index``."""
        return self.source.load(index)

    def epoch_order(self, generator: np.random.Generator) -> np.ndarray:
        """The set's indices into the source in a random order, the source's own way of it."""
        order = np.asarray(self.source.epoch_order(generator))
        return order[np.isin(order, self.indices)]

    def __getitem__(self, key: SampleKey) -> tuple[Tensor, int]:
        """A view ``(3, size, size)`` uint8 and its label."""
        label = 0 if self.source.labels is None else int(self.source.labels[key.index])
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
        image_size: side of the views in pixels.
        workers: processes that load images; 0 loads in this one.
        seed: of training views and their order.
        record: what the sets are, as plain data.
    """

    train: ImageDataset
    test: ImageDataset
    train_indices: np.ndarray
    image_size: int
    workers: int = 0
    seed: int = 0
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.train.classes)

    def train_images(self) -> LabelledImages:
        """The training set as an evaluation looks at it, without augmentation."""
        return LabelledImages(self.train, self.train_indices, CentreView(self.image_size))

    def test_images(self) -> LabelledImages:
        """The test set."""
        return LabelledImages(self.test, np.arange(len(self.test)), CentreView(self.image_size))

    def train_loader(self, batch_size: int, drop_last: bool = False) -> DataLoader:
        """Shuffled batches of augmented training images; ``batch_size`` is that of all processes together.

        Raises:
            ValueError: the batch size is not divisible by the number of processes.
        """
        share, rest = divmod(batch_size, comm.world_size())
        if rest or not share:
            raise ValueError(f"batch size {batch_size} is not divisible by {comm.world_size()} processes")
        dataset = LabelledImages(self.train, self.train_indices, TrainView(self.image_size))
        sampler = KeyedSampler(dataset, self.seed)
        return DataLoader(dataset, share, sampler=sampler, num_workers=self.workers, persistent_workers=self.workers > 0,
                          pin_memory=torch.cuda.is_available(), drop_last=drop_last and len(sampler) >= share)

    def test_loader(self, batch_size: int) -> DataLoader:
        """This process's share of the test set; ``batch_size`` is that of all processes together."""
        return evaluation_loader(self.test_images(), max(1, batch_size // comm.world_size()), self.workers)


def evaluation_loader(dataset: LabelledImages, batch_size: int, workers: int) -> DataLoader:
    """This process's share of the set in order; ``batch_size`` is that of one process."""
    return DataLoader(dataset, batch_size, sampler=ShardSampler(dataset), num_workers=workers,
                      pin_memory=torch.cuda.is_available())


def load_labelled_data(
    source: str | Mapping,
    data_root: str | Path,
    train_split: str | None = None,
    test_split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    image_size: int = 224,
    workers: int = 0,
) -> LabelledData:
    """Opens the training and test sets of an evaluation.

    Args:
        source: name or config of a data set, see :func:`pretrain.data.sources.build_source`.
        data_root: where it reads from.
        train_split: by default the data set's own.
        test_split: by default the data set's own.
        limit: use a class-balanced subset of this many training images.
        seed: of the subset, the views and their order.
        image_size: side of the views in pixels.
        workers: processes that load images.

    Raises:
        ValueError: the data are missing, unlabelled or of one class, train and test have different classes or share images,
            or the limit does not fit.
    """
    if train_split is None or test_split is None:
        defaults = default_splits(source, data_root)
        train_split, test_split = train_split or defaults[0], test_split or defaults[1]
    train, test = (labelled(build_source(source, data_root, split)) for split in (train_split, test_split))
    known = {train.name(index) for index in range(len(train))}
    shared = sum(test.name(index) in known for index in range(len(test)))
    if shared:
        raise ValueError(f"splits {train_split!r} and {test_split!r} share {shared} of the {len(test)} test images; name "
                         "other splits with --train-split and --test-split")
    if tuple(train.classes) != tuple(test.classes):
        only = sorted(set(train.classes) ^ set(test.classes))
        raise ValueError(f"splits {train_split!r} and {test_split!r} have different classes or another order of them; only "
                         f"one has {', '.join(only[:5])}")
    indices = np.arange(len(train)) if limit is None else balanced_subset(train.labels, limit, seed)
    record = {**_described(source, data_root), "train_split": train_split, "test_split": test_split,
              "train_images": len(indices), "test_images": len(test), "classes": len(train.classes), "limit": limit,
              "fingerprint": fingerprint([train, test], data_root)}
    return LabelledData(train, test, indices, image_size, workers, seed, record)


def load_unlabelled_images(
    source: str | Mapping, data_root: str | Path, split: str | None, limit: int | None, seed: int, image_size: int
) -> tuple[LabelledImages, dict[str, Any]]:
    """Opens images without a look at their labels.

    Args:
        source: name or config of a data set.
        data_root: where it reads from.
        split: by default that on which an evaluation tests, and where there is none all images.
        limit: use a random subset of this many images; a smaller one of the same seed lies within a larger one.
        seed: of the subset.
        image_size: side of the views in pixels.

    Returns:
        The images, and what they are as plain data.

    Raises:
        ValueError: the data are missing, or the limit is above their number.
    """
    images, split = _open_split(source, data_root, split)
    if limit is not None and limit > len(images):
        raise ValueError(f"limit is {limit}, but {images.description} has {len(images)} images")
    indices = np.sort(np.random.default_rng(seed).permutation(len(images))[:limit])
    record = {**_described(source, data_root), "split": split, "images": len(indices), "limit": limit,
              "fingerprint": fingerprint([images], data_root)}
    return LabelledImages(images, indices, CentreView(image_size)), record


def _open_split(source: str | Mapping, data_root: str | Path, split: str | None) -> tuple[ImageDataset, str | None]:
    if split is not None:
        return build_source(source, data_root, split), split
    try:
        split = default_splits(source, data_root)[1]
        return build_source(source, data_root, split), split
    except ValueError:  # a folder or list without splits
        images = build_source(source, data_root)
        if images.splits is not None:  # these would be training images, which nobody asked for
            raise
        return images, None


def _described(source: str | Mapping, data_root: str | Path) -> dict[str, Any]:
    options = {} if isinstance(source, str) else {key: value for key, value in source.items() if key != "type"}
    return {"source": source if isinstance(source, str) else source["type"], "options": options,
            "root": Path(data_root).resolve().name}


def fingerprint(sets: Sequence[ImageDataset], data_root: str | Path) -> str:
    """SHA-256 over the sorted names, relative to ``data_root``, and labels of all images of the sets.

    It distinguishes data sets of one name; pixels are not looked at.
    """
    digest = hashlib.sha256()
    root = f"{Path(data_root)}{os.sep}"
    for source in sets:
        labels = [0] * len(source) if source.labels is None else source.labels.tolist()
        lines = sorted(f"{source.name(index).removeprefix(root)}\0{label}\n" for index, label in enumerate(labels))
        digest.update(f"{len(lines)}\n".encode())
        digest.update("".join(lines).encode(errors="surrogateescape"))
    return digest.hexdigest()


def rank_within_class(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The place ``(N,)`` of every image in a random order of the images of its own class, counted from 0."""
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return ranks


def balanced_subset(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices, ascending, of a random subset with as equal numbers of images per class as possible.

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
    class_order = generator.permutation(labels.max() + 1)  # which classes get one more where the size is not a multiple
    return np.sort(np.lexsort((class_order[labels], ranks))[:size])


def default_workers() -> int:
    """As many loading processes as there are processors for each training process, 8 at most."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, processors // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
