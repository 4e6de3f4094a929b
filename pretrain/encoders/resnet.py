"""ResNets with torchvision's layers and parameter names, without the classifier (He et al., 2016)."""

from __future__ import annotations

from torch import nn
from torchvision.models import resnet as tv_resnet

from pretrain.encoders.base import ENCODERS, Encoder


class ResNetEncoder(Encoder):
    """A torchvision ResNet seen as blocks: the state dict is torchvision's without ``fc.*``.

    Block 0 is the stem (conv1, bn1, ReLU, max-pool) with the first residual block; every further residual block is a block
    of its own. ResNet-50 has 16 blocks in the stages res2=[0,3), res3=[3,7), res4=[7,13), res5=[13,16).

    Args:
        block: torchvision's ``BasicBlock`` or ``Bottleneck``.
        layers: number of residual blocks in each of the four stages.
    """

    def __init__(self, block: type[tv_resnet.BasicBlock | tv_resnet.Bottleneck], layers: list[int]) -> None:
        super().__init__()
        source = tv_resnet.ResNet(block, layers)
        self.conv1, self.bn1, self.relu, self.maxpool = source.conv1, source.bn1, source.relu, source.maxpool
        self._residual_block = block
        self._positions: list[tuple[str, int]] = []
        stages, channels, strides = {}, [], []
        for stage, depth in enumerate(layers):
            setattr(self, f"layer{stage + 1}", getattr(source, f"layer{stage + 1}"))
            stages[f"res{stage + 2}"] = (len(self._positions), len(self._positions) + depth)
            self._positions += [(f"layer{stage + 1}", i) for i in range(depth)]
            channels += [64 * 2**stage * block.expansion] * depth
            strides += [4 * 2**stage] * depth
        self.stages, self.block_channels, self.block_strides = stages, tuple(channels), tuple(strides)

    def block(self, index: int) -> nn.Sequential:
        """See :meth:`Encoder.block`."""
        stage, position = self._positions[index]
        residual = getattr(self, stage)[position]
        if index == 0:
            return nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool, residual)
        return nn.Sequential(residual)

    def decoder_block(self, index: int, stride: int) -> nn.Module:
        """A BasicBlock or Bottleneck with torchvision's initialisation, and a projection on a downsampling shortcut."""
        channels = self.block_channels[index]
        shortcut = None
        if stride != 1:
            shortcut = nn.Sequential(
                nn.Conv2d(channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )
        block = self._residual_block(channels, channels // self._residual_block.expansion, stride, shortcut)
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return block


@ENCODERS.register_module(name="resnet18")
def resnet18() -> ResNetEncoder:
    """ResNet-18: 8 basic blocks, 64-128-256-512 channels."""
    return ResNetEncoder(tv_resnet.BasicBlock, [2, 2, 2, 2])


@ENCODERS.register_module(name="resnet50")
def resnet50() -> ResNetEncoder:
    """ResNet-50: 16 bottleneck blocks, 256-512-1024-2048 channels, stride on the 3x3 convolution."""
    return ResNetEncoder(tv_resnet.Bottleneck, [3, 4, 6, 3])
