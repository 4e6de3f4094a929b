"""The standard sets of small images, read from the files that their authors publish; nothing is downloaded."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets

from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import SOURCES, ImageSource


class _ArraySource(ImageSource):
    """Images of one array ``(N, H, W, 3)`` or ``(N, H, W)`` uint8, called "<title> <split> image 17"."""

    title: str
    splits = ("train", "test")
    how_to_label = "use the splits train and test"

    def __init__(self, split: str, images: np.ndarray, labels: Sequence[int], classes: Sequence[str], where: Path) -> None:
        self.split = split
        self.images = images
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = tuple(classes)
        self.description = f"{self.title} {split} in {where}"

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """See :class:`ImageSource`."""
        return f"{self.title} {self.split} image {index}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageSource`."""
        return Image.fromarray(self.images[index]).convert("RGB")


@SOURCES.register_module("cifar10")
class Cifar10(_ArraySource):
    """CIFAR-10, the "python version": 50,000 + 10,000 images of 32 × 32. Its pickles are read if their MD5 is the known one.

    Args:
        data_root: the folder that holds cifar-10-batches-py, or that folder.
        split: "train" or "test".

    Raises:
        ValueError: a file is missing or damaged.
    """

    title = "cifar10"
    reader: type[datasets.CIFAR10] = datasets.CIFAR10

    def __init__(self, data_root: Path, split: str | None = None) -> None:
        split, reader = split or "train", self.reader
        checksums = dict([*reader.train_list, *reader.test_list], **{reader.meta["filename"]: reader.meta["md5"]})
        folder = _find_files(data_root, (reader.base_folder,), [(name,) for name in checksums], reader.url).resolve()
        at_hand = type(reader.__name__, (reader,), dict(base_folder=folder.name))  # a renamed folder will do
        try:
            content = at_hand(folder.parent, train=split == "train", download=False)
        except RuntimeError as error:  # the files are there, so their checksums differ
            raise ValueError(f"a file of {', '.join(checksums)} in {folder} is damaged: its MD5 is not that of the one in "
                             f"{reader.url}; download and unpack that again") from error
        super().__init__(split, content.data, content.targets, content.classes, folder)


@SOURCES.register_module("cifar100")
class Cifar100(Cifar10):
    """CIFAR-100, the "python version", with its 100 fine classes; as :class:`Cifar10`, from cifar-100-python."""

    title = "cifar100"
    reader = datasets.CIFAR100


@SOURCES.register_module("stl10")
class Stl10(ImageSource):
    """STL-10, the binary files: images of 96 × 96, 5,000 train, 8,000 test and 100,000 unlabeled.

    Images are read from the files one by one: torchvision holds all 2.7 GB in memory, and hashes them at each start.

    Args:
        data_root: the folder that holds stl10_binary, or that folder.
        split: "train", "test", "unlabeled" or "train+unlabeled"; the last two have no labels.

    Raises:
        ValueError: a file is missing or truncated, or a label is out of range.
    """

    splits = ("train", "test", "unlabeled", "train+unlabeled")
    how_to_label = "use the splits train and test"
    side = 96
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")

    def __init__(self, data_root: Path, split: str | None = None) -> None:
        self.split = split or "train"
        parts = self.split.split("+")
        labelled = self.split in ("train", "test")
        names = [f"{part}_X.bin" for part in parts] + [f"{part}_y.bin" for part in parts if labelled]
        folder = _find_files(data_root, ("stl10_binary",), [(name,) for name in names], datasets.STL10.url)
        self.description = f"stl10 {self.split} in {folder}"
        self._files = [folder / f"{part}_X.bin" for part in parts]
        sizes = [file.stat().st_size for file in self._files]
        for file, size in zip(self._files, sizes, strict=True):
            if size == 0 or size % self._image_bytes:
                raise ValueError(f"{file} is truncated: {size:,} bytes are not a number of images of {self._image_bytes:,} "
                                 f"bytes; download {datasets.STL10.url} again")
        self._ends = np.cumsum([size // self._image_bytes for size in sizes])
        if labelled:
            self.classes, self.labels = self.names, self._read_labels(folder / f"{self.split}_y.bin")

    @property
    def _image_bytes(self) -> int:
        return 3 * self.side * self.side

    def _read_labels(self, file: Path) -> np.ndarray:
        labels = np.fromfile(file, dtype=np.uint8).astype(np.int64) - 1  # the file counts from 1
        if len(labels) != len(self) or labels.min() < 0 or labels.max() >= len(self.names):
            raise ValueError(f"{file} does not hold a label from 1 to {len(self.names)} for each of {len(self)} images; "
                             f"download {datasets.STL10.url} again")
        return labels

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """See :class:`ImageSource`."""
        return f"stl10 {self.split} image {index}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageSource`."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[part - 1]) if part else 0
        try:
            pixels = np.fromfile(self._files[part], np.uint8, self._image_bytes, offset=(index - first) * self._image_bytes)
            columns = pixels.reshape(3, self.side, self.side)  # (3, W, H): the files are column-major
        except (OSError, ValueError) as error:
            raise CorruptImageError(f"{self.name(index)} cannot be read from {self._files[part]}: {error}") from error
        return Image.fromarray(np.ascontiguousarray(columns.transpose(2, 1, 0)))


@SOURCES.register_module("fashion_mnist")
class FashionMnist(_ArraySource):
    """Fashion-MNIST, the IDX files, packed or not: 60,000 + 10,000 gray images of 28 × 28, as RGB.

    Args:
        data_root: the folder of the files, or the one that torchvision keeps FashionMNIST/raw in.
        split: "train" or "test".

    Raises:
        ValueError: a file is missing or damaged.
    """

    title = "fashion_mnist"

    def __init__(self, data_root: Path, split: str | None = None) -> None:
        split = split or "train"
        prefix = "train" if split == "train" else "t10k"
        names = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
        url = datasets.FashionMNIST.mirrors[0]
        folder = _find_files(data_root, ("FashionMNIST/raw", "raw"), [(name, name + ".gz") for name in names], url)
        images, labels = (_read_idx(folder, name) for name in names)
        classes = datasets.FashionMNIST.classes
        if images.ndim != 3 or labels.shape != images.shape[:1] or (labels >= len(classes)).any():
            raise ValueError(f"{names[0]} {images.shape} and {names[1]} {labels.shape} in {folder} do not hold gray images "
                             f"with a label from 0 to {len(classes) - 1} each; get them again from {url}")
        super().__init__(split, images, labels, classes, folder)


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """An array of bytes in the IDX format: two zero bytes, type 8, number of dimensions, sizes (big endian), values."""
    plain, packed = folder / name, folder / f"{name}.gz"
    file = plain if plain.is_file() else packed
    try:
        content = gzip.decompress(file.read_bytes()) if file == packed else file.read_bytes()
        zeros, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, offset=4)
        if (zeros, kind) != (0, 8):
            raise ValueError("it does not start as an IDX file of bytes does")
        return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:  # BadGzipFile is an OSError
        raise ValueError(f"{file} is damaged: {error}; get it again from {datasets.FashionMNIST.mirrors[0]}") from error


def _find_files(data_root: Path, folders: Sequence[str], files: Sequence[tuple[str, ...]], url: str) -> Path:
    """The folder that holds a standard set: one of ``folders`` in ``data_root``, or ``data_root``.

    Args:
        data_root: where the user says that the set is.
        folders: where its archive unpacks to.
        files: for each file that is needed, the names that it may have.
        url: where to get them.

    Raises:
        ValueError: no folder holds all files.
    """
    candidates = [*(data_root / folder for folder in folders), data_root]
    for folder in candidates:
        if all(any((folder / name).is_file() for name in names) for names in files):
            return folder
    looked_in = next((folder for folder in candidates if folder.is_dir()), candidates[0])
    missing = [" or ".join(names) for names in files if not any((looked_in / name).is_file() for name in names)]
    raise ValueError(f"{looked_in} does not hold {', '.join(missing)}; get {url} and unpack it into {data_root}, so that "
                     f"{candidates[0] / files[0][0]} exists")
