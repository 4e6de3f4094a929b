"""The encoder interface that every learning rule is built on: a sequence of blocks with named stages."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmengine.registry import Registry
from torch import Tensor, nn

from pretrain.options import unknown_name

ENCODERS = Registry("encoder", locations=["pretrain.encoders"])
ARCHITECTURES = {"resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50", "presnet50": "PResNet-50",
                 "shufflenet_v2_50": "ShuffleNet v2-50"}


class Encoder(nn.Module, ABC):
    """A convolutional encoder as a chain of blocks, grouped into named stages.

    Block ``i + 1`` takes the output of block ``i`` and nothing else, so the encoder can be cut between any two blocks. The
    stem belongs to block 0. Subclasses register their layers under whatever names their weights are exchanged by and say
    in ``block_layers`` which of them make up a block.

    Attributes:
        stages: name of a stage -> ``(start, end)``, the half-open range of its blocks, in order and without gaps.
        block_layers: paths of every block's layers (as for ``get_submodule``), in the order in which they run; every
            parameter belongs to exactly one block.
        block_channels: output channels of every block.
        block_strides: total stride of every block's output with respect to the image, where need be a fraction.
    """

    stages: dict[str, tuple[int, int]]
    block_layers: tuple[tuple[str, ...], ...]
    block_channels: tuple[int, ...]
    block_strides: tuple[float, ...]

    @property
    def num_blocks(self) -> int:
        """The number of blocks."""
        return len(self.block_channels)

    def block(self, index: int) -> nn.Sequential:
        """Block ``index`` as a module over the registered layers.

        Block 0 is the stem's layers followed by the first residual block as the last child. It is made at each call
        and never registered: a replaced layer (SyncBN conversion, say) is picked up, and the state dict keeps the
        subclass's own names.
        """
        return nn.Sequential(*(self.get_submodule(path) for path in self.block_layers[index]))

    @abstractmethod
    def head_block(self, index: int, stride: int) -> nn.Module:
        """A fresh residual block of the kind of block ``index``, for a convolutional head on that block's output.

        Its input and output have the channels of block ``index``; ``stride`` 2 halves the resolution.
        """

    def convert_sync_batchnorm(self) -> Encoder:
        """Replaces every batch norm by one synchronised across processes, in place, and returns the encoder."""
        return nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def run(self, x: Tensor, start: int, end: int) -> Tensor:
        """Runs blocks ``start`` to ``end - 1``.

        Args:
            x: images ``(B, 3, H, W)`` for ``start == 0``, otherwise the output of block ``start - 1``.
            start: first block.
            end: one past the last block.

        Returns:
            Feature map ``(B, C, h, w)`` of block ``end - 1``.
        """
        for index in range(start, end):
            x = self.block(index)(x)
        return x

    def parameters_of(self, start: int, end: int) -> Iterator[nn.Parameter]:
        """The parameters of blocks ``start`` to ``end - 1``."""
        for index in range(start, end):
            yield from self.block(index).parameters()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Feature maps after every stage, by the stage's name; ``x`` is a normalised RGB batch ``(B, 3, H, W)``."""
        features = {}
        for name, (start, end) in self.stages.items():
            x = features[name] = self.run(x, start, end)
        return features


def build_encoder(spec: str | Mapping) -> Encoder:
    """Builds an encoder from its name or a config ``dict(type=name, ...)``.

    Raises:
        ValueError: no encoder has that name (the message lists the nearest ones), or its arguments do not fit.
    """
    options = {"type": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("type", None)
    make = _encoder_type(name)
    try:
        return make(**options)
    except TypeError as error:
        raise ValueError(f"arguments of encoder {name!r} do not fit: {error}") from error


def encoder_spec(encoder: str | Mapping) -> dict[str, Any]:
    """An encoder's config without options at their defaults.

    Raises:
        ValueError: no encoder has that name.
    """
    options = {"type": encoder} if isinstance(encoder, str) else dict(encoder)
    parameters = inspect.signature(_encoder_type(options.get("type"))).parameters
    return {key: value for key, value in options.items() if key not in parameters or value != parameters[key].default}


def _encoder_type(name: Any) -> Callable[..., Encoder]:
    known = ENCODERS.module_dict
    if name not in known:
        raise unknown_name("encoder", name, known)
    return known[name]


def encoder_label(encoder: str | Mapping) -> str:
    """What tables call an encoder, such as ``ResNet-18 (width=16)``."""
    options = {"type": encoder} if isinstance(encoder, str) else dict(encoder)
    name = options.pop("type")
    if name == "TimmEncoder":
        name = options.pop("name", name)
    return ARCHITECTURES.get(name, name) + (f" ({', '.join(f'{k}={v}' for k, v in options.items())})" if options else "")
