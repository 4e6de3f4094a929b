"""Synthetic labelled images, and features that need no encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import ImageDataset
from pretrain.encoders.resnet import build_resnet
from pretrain.eval.data import LabelledData
from pretrain.eval.features import PooledFeatures

COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [210, 210, 40], [210, 40, 210], [40, 210, 210]])


class ColouredSource(ImageDataset):
    """Noisy images, each of the colour of its class.

    Args:
        length: the number of images; classes take turns.
        classes: the number of classes, up to 6.
        seed: of the noise.
        corrupt: indices of corrupt images.
    """

    def __init__(self, length: int, classes: int = 3, seed: int = 0, corrupt: Sequence[int] = ()) -> None:
        self.classes = tuple(f"class{label}" for label in range(classes))
        self.labels = np.arange(length) % classes
        self.description = "synthetic images"
        self._seed, self._corrupt, self._colours = seed, frozenset(corrupt), COLOURS[self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """See :class:`ImageDataset`."""
        return f"synthetic image {index}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        if index in self._corrupt:
            raise CorruptImageError(f"{self.name(index)} is corrupt")
        noise = np.random.default_rng([self._seed, index]).integers(-40, 41, (16, 16, 3))
        return Image.fromarray(np.clip(self._colours[index] + noise, 0, 255).astype(np.uint8))


class PixelFeatures(nn.Module):
    """The mean colour, and the colours of a 2x2 grid, as if they were the pooled features of two stages."""

    stages = ("colour", "grid")
    widths = {"colour": 3, "grid": 12}

    def __init__(self, stages: Sequence[str] = ("colour", "grid"), dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.stages, self.dtype = tuple(stages), dtype
        self.widths = {name: PixelFeatures.widths[name] for name in self.stages}
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` -> ``{stage: (B, C)}``."""
        x = images.to(self.dtype) / 255 - 0.5
        pooled = {"colour": F.adaptive_avg_pool2d(x, 1).flatten(1), "grid": F.adaptive_avg_pool2d(x, 2).flatten(1)}
        return {name: pooled[name] for name in self.stages}


def synthetic_data(train: int = 24, test: int = 12, classes: int = 3, corrupt: Sequence[int] = ()) -> LabelledData:
    """Training and test set of :class:`ColouredSource`."""
    return LabelledData(ColouredSource(train, classes, 0, corrupt), ColouredSource(test, classes, 1), np.arange(train),
                        image_size=16)


def small_features() -> PooledFeatures:
    """All stages of a ResNet-10 with random weights."""
    torch.manual_seed(0)
    encoder = build_resnet(BasicBlock, [1, 1, 1, 1], width=16, stem="small").to(memory_format=torch.channels_last)
    return PooledFeatures(encoder, tuple(encoder.stages)).eval()


def write_class_folders(root: Path, train: int = 18, test: int = 6, classes: int = 3) -> Path:
    """Writes ``root/{train,val}/<class>/<index>.png`` of :class:`ColouredSource`."""
    for split, source in (("train", ColouredSource(train, classes, 0)), ("val", ColouredSource(test, classes, 1))):
        for index, label in enumerate(source.labels):
            file = root / split / source.classes[label] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            source.load(index).save(file)
    return root
