"""What the readout tests share: labelled images that are drawn, and features that need no encoder."""

from __future__ import annotations

import io
import tarfile
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
from pretrain.eval.session import Session

COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [210, 210, 40], [210, 40, 210], [40, 210, 210]])


class ColouredSource(ImageDataset):
    """Noisy images of one colour a class; the colour tells the class.

    Args:
        length: the number of images; classes take turns.
        classes: the number of classes, up to 6.
        seed: of the noise.
        broken: indices of images that cannot be decoded.
    """

    def __init__(self, length: int, classes: int = 3, seed: int = 0, broken: Sequence[int] = ()) -> None:
        self.classes = tuple(f"class{label}" for label in range(classes))
        self.labels = np.arange(length) % classes
        self.description = "drawn images"
        self._seed, self._broken, self._colours = seed, frozenset(broken), COLOURS[self.labels]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """See :class:`ImageDataset`."""
        return f"drawn image {index}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        if index in self._broken:
            raise CorruptImageError(f"{self.name(index)} is broken")
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

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` -> ``{stage: (B, C)}``."""
        x = images.to(self.dtype) / 255 - 0.5
        pooled = {"colour": F.adaptive_avg_pool2d(x, 1).flatten(1), "grid": F.adaptive_avg_pool2d(x, 2).flatten(1)}
        return {name: pooled[name] for name in self.stages}


def drawn_data(train: int = 24, test: int = 12, classes: int = 3, broken: Sequence[int] = ()) -> LabelledData:
    """Training and test set of :class:`ColouredSource`."""
    return LabelledData(ColouredSource(train, classes, 0, broken), ColouredSource(test, classes, 1), np.arange(train))


def drawn_session(data: LabelledData | None = None, **options) -> Session:
    """A session with a small encoder, a ResNet-10, that nobody has trained."""
    torch.manual_seed(0)
    encoder = build_resnet(BasicBlock, [1, 1, 1, 1], stem="small").to(memory_format=torch.channels_last)
    return Session(encoder, tuple(encoder.stages), data or drawn_data(), image_size=16, **options)


def write_class_folders(root: Path, train: int = 18, test: int = 6, classes: int = 3) -> Path:
    """Writes ``root/{train,val}/<class>/<index>.png`` of :class:`ColouredSource`."""
    for split, source in (("train", ColouredSource(train, classes, 0)), ("val", ColouredSource(test, classes, 1))):
        for index, label in enumerate(source.labels):
            file = root / split / source.classes[label] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            source.load(index).save(file)
    return root


def write_shards(root: Path, train: int = 6, test: int = 6, classes: int = 3) -> Path:
    """Writes ``root/{train,val}/0.tar`` of :class:`ColouredSource`."""
    for split, source in (("train", ColouredSource(train, classes, 0)), ("val", ColouredSource(test, classes, 1))):
        (root / split).mkdir(parents=True)
        with tarfile.open(root / split / "0.tar", "w") as shard:
            for index, label in enumerate(source.labels):
                image = io.BytesIO()
                source.load(index).save(image, "PNG")
                for suffix, content in (("png", image.getvalue()), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{index:04d}.{suffix}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    return root
