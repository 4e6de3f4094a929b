"""Progressive ResNet-50: a ResNet in six stages with even shares of memory and computation (LoCo, section 5.6).

The paper is not consistent with itself about this network, so there are three of it (with the multiply-adds of their
convolutions at 224 px):

- ``presnet50``, 4.14 G: as the supplement's table 1 prints it, except that the last 1x1 of every block in res5 and res6 is
  ungrouped. This yields all FLOPs shares of the paper's table 6 within 0.04 points and its total of 4.16 G: it is the
  network that the paper measured.
- ``presnet50_printed``, 3.79 G: the supplement's table 1 to the letter.
- ``presnet50_res4_128``, 4.00 G: as ``presnet50``, but with 128 and 512 channels in res4, which yields the memory shares of
  table 6 exactly. Text, supplement and FLOPs shares say 144 and 576.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.encoders.base import ENCODERS, Encoder
from pretrain.encoders.layers import conv, init_like_resnet, projection

BLOCKS_PER_STAGE = 3
EXPANSION = 4
STEM_CHANNELS = 32
IMAGE_SIZE = 224  # the size at which the supplement gives the stages' sizes
POOLED_SIZE = 56  # of the stem's output


class Stage(NamedTuple):
    """One stage of the supplement's table 1.

    Attributes:
        size: side of the output for an image of 224 px.
        width: channels of the 3x3 convolutions.
        bottleneck: whether its blocks are bottlenecks instead of basic blocks.
        groups: groups of a bottleneck's first 1x1 and of its 3x3.
        last_groups: groups of a bottleneck's last 1x1, by block; 1 where it is ungrouped.
    """

    size: int
    width: int
    bottleneck: bool = True
    groups: int = 1
    last_groups: tuple[int, int, int] = (1, 1, 1)

    @property
    def channels(self) -> int:
        """Channels of the output."""
        return self.width * EXPANSION if self.bottleneck else self.width


PRINTED = {
    "res2": Stage(56, 56, bottleneck=False),
    "res3": Stage(36, 96, bottleneck=False),
    "res4": Stage(24, 144),
    "res5": Stage(16, 256, groups=2, last_groups=(1, 2, 2)),
    "res6": Stage(12, 512, groups=16, last_groups=(1, 16, 16)),
    "res7": Stage(8, 1024, groups=128, last_groups=(1, 128, 128)),
}
MEASURED = {
    **PRINTED,
    "res5": PRINTED["res5"]._replace(last_groups=(1, 1, 1)),
    "res6": PRINTED["res6"]._replace(last_groups=(1, 1, 1)),
}
RES4_128 = {**MEASURED, "res4": MEASURED["res4"]._replace(width=128)}


class BilinearResize(nn.Module):
    """Bilinear interpolation by a ratio, to sides rounded half up."""

    def __init__(self, ratio: Fraction) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(B, C, h, w)`` -> ``(B, C, ratio * h, ratio * w)``; autograd saves neither of them."""
        size = [floor(side * self.ratio + Fraction(1, 2)) for side in x.shape[-2:]]
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        """The ratio."""
        return str(self.ratio)


def _resize(ratio: Fraction) -> nn.Module:
    return nn.Identity() if ratio == 1 else BilinearResize(ratio)


def _shortcut(in_channels: int, out_channels: int, ratio: Fraction) -> nn.Sequential | None:
    return None if in_channels == out_channels and ratio == 1 else projection(in_channels, out_channels)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, on the resized input.

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions.
        ratio: size of the output as a part of the input's.
    """

    def __init__(self, in_channels: int, channels: int, ratio: Fraction = Fraction(1)) -> None:
        super().__init__()
        self.resize = _resize(ratio)
        self.conv1 = conv(in_channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(B, in_channels, h, w)`` -> ``(B, channels, ratio * h, ratio * w)``."""
        x = self.resize(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut; resized before the 3x3 and before the shortcut's convolution.

    Args:
        in_channels: channels of the input.
        width: channels of the first two convolutions; the last has four times as many.
        groups: groups of the first two convolutions.
        last_groups: groups of the last convolution.
        ratio: size of the output as a part of the input's.
    """

    def __init__(
        self, in_channels: int, width: int, groups: int = 1, last_groups: int = 1, ratio: Fraction = Fraction(1)
    ) -> None:
        super().__init__()
        channels = width * EXPANSION
        self.conv1 = conv(in_channels, width, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.resize = _resize(ratio)
        self.conv2 = conv(width, width, 3, groups=groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, channels, 1, groups=last_groups)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(B, in_channels, h, w)`` -> ``(B, 4 * width, ratio * h, ratio * w)``."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(self.resize(out))))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(self.resize(x))
        return self.relu(out)


class PResNetEncoder(Encoder):
    """A progressive ResNet: 18 blocks in six stages, downsampled by bilinear interpolation at the start of each.

    Stages have 56, 36, 24, 16, 12 and 8 px a side for an image of 224 px, and for any other image as many as these ratios
    yield, rounded stage by stage. Blocks of a residual branch follow torchvision's ResNet in names and initialisation.

    Args:
        stages: the stages, see :data:`PRINTED`, :data:`MEASURED` and :data:`RES4_128`.
    """

    def __init__(self, stages: dict[str, Stage]) -> None:
        super().__init__()
        self.conv1 = conv(3, STEM_CHANNELS, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self._specs = stages
        self.stages, paths, block_channels, strides = {}, [], [], []
        in_channels, size = STEM_CHANNELS, POOLED_SIZE
        for name, stage in stages.items():
            self.stages[name] = (len(paths), len(paths) + BLOCKS_PER_STAGE)
            blocks = []
            for position in range(BLOCKS_PER_STAGE):
                blocks.append(_make_block(stage, in_channels, position, Fraction(stage.size, size)))
                in_channels, size = stage.channels, stage.size
                paths.append((f"{name}.{position}",))
                block_channels.append(stage.channels)
                strides.append(IMAGE_SIZE / stage.size)
            self.add_module(name, nn.Sequential(*blocks))
        paths[0] = ("conv1", "bn1", "relu", "maxpool", *paths[0])
        self.block_layers, self.block_channels, self.block_strides = tuple(paths), tuple(block_channels), tuple(strides)
        init_like_resnet(self)

    def head_block(self, index: int, stride: int) -> nn.Module:
        """A block like the last of the stage, in PResNet's own way of downsampling, with its initialisation."""
        stage = next(self._specs[name] for name, (start, end) in self.stages.items() if start <= index < end)
        block = _make_block(stage, stage.channels, BLOCKS_PER_STAGE - 1, Fraction(1, stride))
        init_like_resnet(block)
        return block


def _make_block(stage: Stage, in_channels: int, position: int, ratio: Fraction) -> BasicBlock | Bottleneck:
    if not stage.bottleneck:
        return BasicBlock(in_channels, stage.width, ratio)
    return Bottleneck(in_channels, stage.width, stage.groups, stage.last_groups[position], ratio)


@ENCODERS.register_module(name="presnet50")
def presnet50() -> PResNetEncoder:
    """PResNet-50 as the paper measured it: 56-96-576-1024-2048-4096 channels, 4.14 G multiply-adds."""
    return PResNetEncoder(MEASURED)


@ENCODERS.register_module(name="presnet50_printed")
def presnet50_printed() -> PResNetEncoder:
    """PResNet-50 by the letter of the supplement's table 1: 3.79 G multiply-adds."""
    return PResNetEncoder(PRINTED)


@ENCODERS.register_module(name="presnet50_res4_128")
def presnet50_res4_128() -> PResNetEncoder:
    """PResNet-50 with 128 instead of 144 base channels in res4, as the paper's memory shares have it."""
    return PResNetEncoder(RES4_128)
