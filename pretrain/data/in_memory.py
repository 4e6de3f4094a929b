"""Small images held in memory as one tensor, on the CPU or the GPU, so that a batch is one gather."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from mmengine.registry import DATASETS, FUNCTIONS
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv
from tqdm import tqdm

from pretrain.data.dataset import SampleKey
from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import build_source

_IMAGES_PER_TASK = 64


@DATASETS.register_module()
class InMemoryDataset(Dataset):
    """All images of a source, decoded once, whole in the memory of one device; each process holds them all.

    Batches are made in one go (``__getitems__``) and need no workers: ``num_workers=0`` and
    ``collate_fn=dict(type="batched_already")``. Views are drawn by the model's
    :class:`~pretrain.data.device_views.BatchedTwoViewsPreprocessor`.

    A corrupt image is replaced by the next one, its label with it, and flagged in :attr:`corrupt`.

    Args:
        data_root: folder that the source reads from.
        source: name or config of an image source, see :func:`~pretrain.data.sources.build_source`.
        split: part of the source.
        image_size: side in pixels: images are resized to it by their short side (bicubic, antialiased) and cropped at the
            centre. None where all images have one size.
        device: where to hold them, ``"cpu"`` or ``"cuda"``; ``"auto"`` is this process's GPU where it has one.
        max_mib: what they may need in MiB.

    Attributes:
        images: ``(len, 3, H, W)`` uint8 on the device.
        labels: ``(len,)`` int64 indices into ``classes``; None for an unlabelled source.
        classes: class names; None for an unlabelled source.
        corrupt: ``(len,)`` uint8, 1 where decoding failed.

    Raises:
        ValueError: an option is out of range, the images differ in size or need more memory than ``max_mib``, there is no
            such device, or the source refuses.
        CorruptImageError: no image can be decoded.
    """

    metainfo: Mapping = {}

    def __init__(
        self,
        data_root: str,
        source: str | Mapping = "folder",
        split: str | None = None,
        image_size: int | None = None,
        device: str = "auto",
        max_mib: float = 4096,
    ) -> None:
        if device == "auto":
            device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.source = build_source(source, data_root, split)
        self.corrupt = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        self._image_size = image_size
        height, width = self._common_size()
        needed = len(self) * 3 * height * width / 2**20
        if needed > max_mib:
            raise ValueError(f"{len(self)} images of {width} × {height} need {needed:,.1f} MiB, more than max_mib, {max_mib}"
                             "; raise it, choose a smaller image_size, or use TwoViewImages, which decodes as it goes")
        images = torch.empty(len(self), 3, height, width, dtype=torch.uint8)
        self._decode_all(images)
        stand_ins = self._stand_ins()  # (len,)
        replaced = self.corrupt.nonzero()[:, 0]
        images[replaced] = images[stand_ins[replaced]]
        self.images = images.to(self.device)
        self.labels = None if self.source.labels is None else self.source.labels[stand_ins.numpy()]
        self.classes = self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> Image.Image:
        """The source's image ``index``."""
        return self.source.load(index)

    def __getitem__(self, key: SampleKey) -> dict[str, Tensor]:
        """``{"images": (3, H, W) uint8, "keys": (3,) int64}``."""
        return {name: values[0] for name, values in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[SampleKey]) -> dict[str, Tensor]:
        """A batch ``{"images": (N, 3, H, W) uint8, "keys": (N, 3) int64}`` on the data set's device.

        Raises:
            ValueError: a worker process asks for images on the GPU.
        """
        on_gpu = self.device.type == "cuda"
        if on_gpu and get_worker_info() is not None:
            raise ValueError("images on the GPU cannot be read by worker processes; set num_workers=0 or device='cpu'")
        batch = torch.tensor(keys, pin_memory=on_gpu).to(self.device, non_blocking=True)  # (N, 3)
        return {"images": self.images[batch[:, 2]], "keys": batch}

    def _common_size(self) -> tuple[int, int]:
        """Height and width of every image: those asked for, or those of the first that can be decoded."""
        if self._image_size is not None:
            return self._image_size, self._image_size
        for index in range(len(self)):
            try:
                image = self.source.load(index)
            except CorruptImageError as error:
                failure = error
            else:
                return image.height, image.width
        raise CorruptImageError(f"none of the {len(self)} images can be decoded; {failure}")

    def _decode_all(self, images: Tensor) -> None:
        """Decodes into ``images`` with several threads: PIL and file systems let the others run meanwhile."""
        tasks = [range(first, min(first + _IMAGES_PER_TASK, len(self))) for first in range(0, len(self), _IMAGES_PER_TASK)]
        progress = tqdm(desc="decoding", total=len(self), unit="image", file=sys.stderr, disable=None)
        with progress, ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            for task, _ in zip(tasks, pool.map(lambda task: self._decode(task, images), tasks), strict=True):
                progress.update(len(task))

    def _decode(self, indices: range, images: Tensor) -> None:
        for index in indices:
            try:
                image = self.source.load(index)
            except CorruptImageError:
                self.corrupt[index] = 1
                continue
            if self._image_size is not None:
                image = tv.center_crop(tv.resize(image, [self._image_size], InterpolationMode.BICUBIC), [self._image_size])
            height, width = images.shape[2:]
            if image.size != (width, height):
                raise ValueError(f"{self.source.name(index)} is {image.width} × {image.height}, but others are {width} × "
                                 f"{height}; set image_size to bring all images to one size")
            images[index] = tv.pil_to_tensor(image)

    def _stand_ins(self) -> Tensor:
        """The image that stands at each index, ``(len,)`` int64: itself, or the next one that could be decoded."""
        decodable = (self.corrupt == 0).nonzero()[:, 0]
        if not len(decodable):
            raise CorruptImageError(f"none of the {len(self)} images can be decoded, for example {self.source.name(0)}")
        following = torch.searchsorted(decodable, torch.arange(len(self)))
        return decodable[following % len(decodable)]


@FUNCTIONS.register_module()
def batched_already(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The collate function for a data set that makes whole batches (``__getitems__``): passes them on."""
    return batch
