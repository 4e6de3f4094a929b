"""ShuffleNet v2-50, the large model of the ShuffleNet v2 paper that LoCo transfers to detection (LoCo, table 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import channel_shuffle

from pretrain.encoders.base import ENCODERS, Encoder
from pretrain.encoders.layers import conv

STEM_CHANNELS = 64
STAGES = {"res2": (3, 244), "res3": (4, 488), "res4": (6, 976), "res5": (3, 1952)}  # units and channels
OUT_CHANNELS = 2048


def _conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    return [conv(in_channels, out_channels, kernel_size, stride), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [conv(channels, channels, 3, stride, groups=channels), nn.BatchNorm2d(channels)]


class ShuffleUnit(nn.Module):
    """A unit of ShuffleNet v2 (Ma et al., 2018, figure 3c and d), under the parameter names of torchvision's.

    Where neither size nor width changes, half of the channels pass as they are. Otherwise both branches work on all of the
    input and either yields half of the output. torchvision has the latter with stride 2 only; the first stage of
    ShuffleNet v2-50 needs it with stride 1, since its width changes from 64 to 244 at the same size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, an even number.
        stride: stride of the depthwise convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        half = out_channels // 2
        self.projects = stride != 1 or in_channels != out_channels
        self.branch1 = nn.Sequential()
        if self.projects:
            self.branch1 = nn.Sequential(*_depthwise(in_channels, stride), *_conv_norm_relu(in_channels, half, 1))
        self.branch2 = nn.Sequential(
            *_conv_norm_relu(in_channels if self.projects else half, half, 1),
            *_depthwise(half, stride),
            *_conv_norm_relu(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(B, in_channels, h, w)`` -> ``(B, out_channels, h / stride, w / stride)``."""
        left, right = (x, x) if self.projects else x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((self.branch1(left), self.branch2(right)), dim=1), 2)


@ENCODERS.register_module(name="shufflenet_v2_50")
class ShuffleNetV2Encoder(Encoder):
    """ShuffleNet v2-50: 16 units, 244-488-976-1952 channels and a last 1x1 convolution to 2048; 2.30 G multiply-adds.

    The last convolution belongs to the last block, the stem to the first. As in torchvision's ShuffleNet, convolutions
    keep torch's default initialisation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(*_conv_norm_relu(3, STEM_CHANNELS, 3, stride=2))
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages, paths, block_channels, strides = {}, [], [], []
        in_channels = STEM_CHANNELS
        for stage, (name, (depth, channels)) in enumerate(STAGES.items()):
            first = ShuffleUnit(in_channels, channels, stride=1 if stage == 0 else 2)
            self.add_module(name, nn.Sequential(first, *(ShuffleUnit(channels, channels) for _ in range(depth - 1))))
            in_channels = channels
            self.stages[name] = (len(paths), len(paths) + depth)
            paths += [(f"{name}.{i}",) for i in range(depth)]
            block_channels += [channels] * depth
            strides += [4 * 2**stage] * depth
        self.conv5 = nn.Sequential(*_conv_norm_relu(in_channels, OUT_CHANNELS, 1))
        paths[0] = ("conv1", "maxpool", *paths[0])
        paths[-1] = (*paths[-1], "conv5")
        block_channels[-1] = OUT_CHANNELS
        self.block_layers, self.block_channels, self.block_strides = tuple(paths), tuple(block_channels), tuple(strides)

    def head_block(self, index: int, stride: int) -> nn.Module:
        """A unit of the same width; one that projects where it halves the resolution."""
        channels = self.block_channels[index]
        return ShuffleUnit(channels, channels, stride)
