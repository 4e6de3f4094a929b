"""Projection heads ("decoders" in the papers) on the output of a local unit, discarded after pretraining."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from mmengine.registry import Registry
from torch import Tensor, nn

from pretrain.encoders import Encoder
from pretrain.encoders.layers import conv, init_like_resnet
from pretrain.options import build_with_options, unknown_name

HEADS = Registry("head", locations=["pretrain.heads"])
STANDARD_HEAD = "ProjectionHead"
CONV_PARTS = {
    "stage": "as deep as the next stage of the encoder",
    "network": "unit and head together are as deep as the encoder",
    "plain_conv": "a 3x3 convolution with batch norm and ReLU, and on the encoder's end nothing",
    "expand": "a 1x1 convolution with batch norm and ReLU to the width of the encoder's last block",
}
NORMS = {
    "hidden": "after every linear layer but the last",
    "all": "after every linear layer, as in SimCLR's official code",
    "none": "nowhere",
}


@HEADS.register_module()
class ProjectionHead(nn.Module):
    """Convolutions (optional), global average pooling and an MLP (LoCo, sections 4.2, 5.1 and 5.4).

    The paper leaves the MLP's hidden width and the place of its normalisation open: the width is that of the pooled
    features as in SimCLR, and batch norm stands where ``norm`` says.

    Args:
        encoder: the encoder whose kind of residual block the convolutional part uses.
        block: the unit's last block.
        conv_blocks: residual blocks before the pooling: a number (0 for SimCLR and GIM, 1 for LoCo in the main results),
            or what a name in :data:`CONV_PARTS` says, for which see :func:`conv_part`. ``"expand"`` is that of
            blockwise Barlow Twins (Siddiqui et al., 2023). The projector of decoupled SimCLR
            is ``conv_blocks="plain_conv", norm="none"`` (Fournier et al., 2023, appendix, "Split details").
        downsample: whether the first of a number of blocks, or the plain convolution, halves the resolution (Table 4:
            "w/o ds" otherwise). Blocks taken from an encoder downsample where the encoder does.
        mlp_layers: linear layers, >= 1; 2 in the main results, 4 in the rows of Table 4 that add a "2-layer MLP".
        norm: where batch norm stands in the MLP, a name in :data:`NORMS`.
        hidden_channels: width of the hidden layers, the pooled features' by default.
        out_channels: dimension of the contrastive space; 128 in the paper.
        fresh_encoder: makes another encoder of the same kind; "stage" and "network" take their blocks from it.

    Raises:
        ValueError: a value is unknown or out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        block: int,
        conv_blocks: int | str = 0,
        downsample: bool = True,
        mlp_layers: int = 2,
        norm: str = "hidden",
        hidden_channels: int | None = None,
        out_channels: int = 128,
        fresh_encoder: Callable[[], Encoder] | None = None,
    ) -> None:
        super().__init__()
        if mlp_layers < 1:
            raise ValueError(f"head has mlp_layers={mlp_layers}; at least 1 is needed")
        if hidden_channels is not None and hidden_channels < 1:
            raise ValueError(f"head has hidden_channels={hidden_channels}; at least 1 is needed, or None for the pooled "
                             "features' width")
        blocks, channels = conv_part(encoder, block, conv_blocks, downsample, fresh_encoder)
        hidden = hidden_channels or channels
        self.convs = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mlp = mlp([channels, *[hidden] * (mlp_layers - 1), out_channels], norm)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Feature map ``(B, C, h, w)`` -> projection ``(B, out_channels)``, not normalised to length 1."""
        x = self.pool(self.convs(x)).flatten(1)  # (B, C)
        return self.mlp(x)


def head_type(options: Mapping[str, Any]) -> type[nn.Module]:
    """The registered class of a head's options, by their ``type``; :class:`ProjectionHead` without one.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    name, known = options.get("type", STANDARD_HEAD), HEADS.module_dict
    if name not in known:
        raise unknown_name("head", name, known)
    return known[name]


def build_head(
    options: Mapping[str, Any], encoder: Encoder, block: int, fresh_encoder: Callable[[], Encoder] | None = None
) -> nn.Module:
    """Builds a head on the output of ``block``.

    Args:
        options: of the head's class, and its ``type``. A class takes ``encoder`` and ``block`` first, maps a feature map
            ``(B, C, h, w)`` to projections ``(B, D)``, and says ``D`` in its attribute ``out_channels``.
        encoder: the encoder.
        block: the unit's last block.
        fresh_encoder: for a class that has an argument of this name, see :class:`ProjectionHead`.

    Raises:
        ValueError: no head has that name, or its options do not fit.
    """
    make = head_type(options)
    if "fresh_encoder" in inspect.signature(make).parameters:
        make = partial(make, fresh_encoder=fresh_encoder)
    return build_with_options("head", make, {k: v for k, v in options.items() if k != "type"}, encoder, block)


def conv_part(
    encoder: Encoder,
    block: int,
    conv_blocks: int | str,
    downsample: bool,
    fresh_encoder: Callable[[], Encoder] | None,
) -> tuple[list[nn.Module], int]:
    """The convolutional part of a head on the output of ``block``, and the channels that it yields.

    - A number of blocks: of the kind and width of ``block``; the first halves the resolution if ``downsample``.
    - ``"network"``: all of the encoder's blocks above, newly initialised. The top unit gets none.
    - ``"stage"``: the encoder's blocks above up to the end of the next stage, newly initialised: that stage, and before it
      the rest of the unit's last stage where the unit ends inside one. In the top stage, which has no next one: as many
      blocks as that stage has.
    - ``"plain_conv"``: a 3x3 convolution of the width of ``block`` with batch norm and ReLU, of stride 2 if ``downsample``;
      the unit at the encoder's end gets none.
    - ``"expand"``: a 1x1 convolution of stride 1 to the width of the encoder's last block, with batch norm and ReLU.

    Raises:
        ValueError: ``conv_blocks`` is neither a number >= 0 nor known, or ``fresh_encoder`` is lacking.
    """
    if conv_blocks == "plain_conv":
        at_end = block == encoder.num_blocks - 1
        channels = encoder.block_channels[block]
        return [] if at_end else [_plain_conv(channels, channels, 3, stride=2 if downsample else 1)], channels
    if conv_blocks == "expand":
        channels = encoder.block_channels[-1]
        return [_plain_conv(encoder.block_channels[block], channels, 1, stride=1)], channels
    if conv_blocks in CONV_PARTS:
        ranges = list(encoder.stages.values())
        stage = next(k for k, (start, end) in enumerate(ranges) if start <= block < end)
        in_top_stage = stage == len(ranges) - 1
        if conv_blocks == "network" or not in_top_stage:
            end = encoder.num_blocks if conv_blocks == "network" else ranges[stage + 1][1]
            return _fresh_blocks(fresh_encoder, block + 1, end), encoder.block_channels[end - 1]
        conv_blocks = ranges[stage][1] - ranges[stage][0]
    if type(conv_blocks) is not int or conv_blocks < 0:
        raise ValueError(f"head has conv_blocks={conv_blocks!r}; a number of at least 0 or one of "
                         f"{', '.join(CONV_PARTS)} is needed")
    strides = [2 if downsample and i == 0 else 1 for i in range(conv_blocks)]
    return [encoder.head_block(block, stride) for stride in strides], encoder.block_channels[block]


def _plain_conv(in_channels: int, channels: int, size: int, stride: int) -> nn.Sequential:
    layers = nn.Sequential(conv(in_channels, channels, size, stride), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
    init_like_resnet(layers)
    return layers


def _fresh_blocks(fresh_encoder: Callable[[], Encoder] | None, start: int, end: int) -> list[nn.Module]:
    if fresh_encoder is None:
        raise ValueError("a head that is as deep as stages of the encoder needs fresh_encoder, which makes their blocks")
    source = fresh_encoder()
    return [source.block(index) for index in range(start, end)]


def mlp(widths: Sequence[int], norm: str = "hidden") -> nn.Sequential:
    """Linear layers from each width to the next, with ReLU between them and batch norm where ``norm`` says.

    A linear layer has a bias unless batch norm follows it.

    Raises:
        ValueError: ``norm`` is not in :data:`NORMS`.
    """
    if norm not in NORMS:
        raise ValueError(f"head has norm={norm!r}; known are {', '.join(NORMS)}")
    layers: list[nn.Module] = []
    for index, (in_channels, out_channels) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        normalised = norm == "all" or (norm == "hidden" and not last)
        layers.append(nn.Linear(in_channels, out_channels, bias=not normalised))
        if normalised:
            layers.append(nn.BatchNorm1d(out_channels))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
