"""ResNets with torchvision's layers and parameter names, without the classifier (He et al., 2016)."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet as tv_resnet

from pretrain.encoders.base import ENCODERS, Encoder
from pretrain.encoders.layers import init_like_resnet, projection

# Stem -> kernel, stride and padding of conv1 without a max-pool after it (second paper, appendix, "Architecture details").
# "stl" changes nothing but the kernel of the standard conv1, so stride 2 and padding 3 stay: 224 px give maps of 113 px.
SMALL_IMAGE_STEMS = {"stl": (5, 2, 3), "small": (3, 1, 1)}


class ResNetEncoder(Encoder):
    """A torchvision ResNet seen as blocks: the state dict is torchvision's without ``fc.*``.

    Block 0 is the stem (conv1, bn1, ReLU and max-pool) with the first residual block; every further residual block is one
    of its own. ResNet-50 has 16 blocks in the stages res2=[0,3), res3=[3,7), res4=[7,13), res5=[13,16).

    Args:
        net: torchvision's model, or one like it with ``nn.Identity`` for the max-pool; layers and weights are shared with
            it, so that training the encoder trains it.
    """

    def __init__(self, net: tv_resnet.ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = net.conv1, net.bn1, net.relu
        stem, stride = ["conv1", "bn1", "relu"], net.conv1.stride[0]
        if not isinstance(net.maxpool, nn.Identity):
            self.maxpool = net.maxpool
            stem.append("maxpool")
            stride *= net.maxpool.stride
        self._residual_block = type(net.layer1[0])
        self.stages, paths, channels, strides = {}, [], [], []
        for name in ("layer1", "layer2", "layer3", "layer4"):
            stage = getattr(net, name)
            setattr(self, name, stage)
            self.stages[f"res{len(self.stages) + 2}"] = (len(paths), len(paths) + len(stage))
            paths += [(f"{name}.{i}",) for i in range(len(stage))]
            stride *= stage[0].stride
            channels += [getattr(block, "conv3", block.conv2).out_channels for block in stage]
            strides += [stride] * len(stage)
        paths[0] = (*stem, *paths[0])
        self.block_layers, self.block_channels, self.block_strides = tuple(paths), tuple(channels), tuple(strides)

    def head_block(self, index: int, stride: int) -> nn.Module:
        """A BasicBlock or Bottleneck with torchvision's initialisation, and a projection on a downsampling shortcut."""
        channels = self.block_channels[index]
        shortcut = projection(channels, channels, stride) if stride != 1 else None
        block = self._residual_block(channels, channels // self._residual_block.expansion, stride, shortcut)
        init_like_resnet(block)
        return block


class _ResNet(tv_resnet.ResNet):
    """torchvision's ResNet with another stem or number of channels, which its constructor fixes at 64 in the first stage."""

    def __init__(
        self, block: type[tv_resnet.BasicBlock | tv_resnet.Bottleneck], layers: list[int], stem: str, width: int
    ) -> None:
        object.__setattr__(self, "_width", width)  # before Module's constructor, since torchvision's makes the stages
        super().__init__(block, layers)
        if width != 64:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            init_like_resnet(self.conv1)
        if stem != "imagenet":
            self.conv1 = nn.Conv2d(3, width, *SMALL_IMAGE_STEMS[stem], bias=False)
            self.maxpool = nn.Identity()
            init_like_resnet(self.conv1)

    def _make_layer(self, block, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        if planes == 64:
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // 64, blocks, stride, dilate)


def build_resnet(
    block: type[tv_resnet.BasicBlock | tv_resnet.Bottleneck], layers: list[int], stem: str = "imagenet", width: int = 64
) -> ResNetEncoder:
    """A ResNet of any depth.

    Args:
        block: torchvision's ``BasicBlock`` or ``Bottleneck``.
        layers: number of residual blocks in each of the four stages.
        stem: ``"imagenet"`` (torchvision's), or one without max-pool for small images: ``"stl"`` (5x5 convolution with
            stride 2) for images about 100 px wide, ``"small"`` (3x3 convolution) for those about 32 px wide.
        width: channels of the stem and (times the block's expansion) of the first stage; later ones double it.

    Raises:
        ValueError: no stem has that name, or the width is below 1.
    """
    if width < 1:
        raise ValueError(f"width of the ResNet is {width}; at least 1 channel is needed")
    if stem != "imagenet" and stem not in SMALL_IMAGE_STEMS:
        raise ValueError(f"unknown stem {stem!r}; known stems: imagenet, {', '.join(SMALL_IMAGE_STEMS)}")
    return ResNetEncoder(_ResNet(block, layers, stem, width))


@ENCODERS.register_module(name="resnet18")
def resnet18(stem: str = "imagenet", width: int = 64) -> ResNetEncoder:
    """ResNet-18: 8 basic blocks, 64-128-256-512 channels at the standard width."""
    return build_resnet(tv_resnet.BasicBlock, [2, 2, 2, 2], stem, width)


@ENCODERS.register_module(name="resnet34")
def resnet34(stem: str = "imagenet") -> ResNetEncoder:
    """ResNet-34: 16 basic blocks, 64-128-256-512 channels."""
    return build_resnet(tv_resnet.BasicBlock, [3, 4, 6, 3], stem)


@ENCODERS.register_module(name="resnet50")
def resnet50(stem: str = "imagenet", width: int = 64) -> ResNetEncoder:
    """ResNet-50: 16 bottleneck blocks, 256-512-1024-2048 channels at the standard width, stride on the 3x3 convolution."""
    return build_resnet(tv_resnet.Bottleneck, [3, 4, 6, 3], stem, width)
