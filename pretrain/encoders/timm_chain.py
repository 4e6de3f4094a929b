"""Cuts timm's feature extractors into chains of blocks, and proves on a random image that the cut changes nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PROBE_SIZE = (96, 128)  # a multiple of 32, and not a square, as images of a detector are not
TOLERANCE = 1e-5
FIRST_STRIDE = 4  # maps at a smaller stride belong to the first stage


class NotAChainError(ValueError):
    """Why a network is no chain of blocks."""


@dataclass(frozen=True)
class Chain:
    """A network as a chain of blocks, in the terms of :class:`pretrain.encoders.base.Encoder`."""

    stages: dict[str, tuple[int, int]]
    block_layers: tuple[tuple[str, ...], ...]
    block_channels: tuple[int, ...]
    block_strides: tuple[float, ...]


@dataclass(frozen=True)
class _Piece:
    """A layer of the chain; one that is no ``block`` (of the stem, of a transition) goes with its neighbour."""

    path: str
    block: bool


@torch.no_grad()
def cut_into_chain(net: nn.Module) -> Chain:
    """Cuts a timm ``features_only`` network into blocks.

    The network's children are run in order. One that is a sequence of modules with convolutions in them (a stage) is cut
    into these, any other is kept whole. Layers that are no blocks go with the block that follows in the same stage, or
    else with the one before. timm's maps end the stages; those of strides 1, 2 and 4 are one stage, res2, and maps of one
    stride are one stage too. The parameters of ``net`` are overwritten with random ones: layer scales and last batch norms
    that start near 0 would otherwise hide what a cut loses.

    Raises:
        NotAChainError: a map of timm's is not the output of any layer in the chain, a parameter is in none of the layers,
            or a block changes its input.
    """
    net.eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.squeeze().ndim < 2:
            parameter.uniform_(0.5, 1.5, generator=generator)
    image = torch.randn(1, 3, *PROBE_SIZE, generator=generator)
    expected = _reference_maps(net, image)
    pieces = _cut_children(net, image)
    ends = _find_maps(net, pieces, image, expected)
    names = [_stage_name(stride) for stride in net.feature_info.reduction()]
    groups: dict[str, list[tuple[str, ...]]] = {}
    start = 0
    for position, (name, end) in enumerate(zip(names, ends, strict=True)):
        if position + 1 == len(names) or names[position + 1] != name:
            groups[name] = _group(pieces[start:end])
            start = end
    _check_complete(net, pieces[:start])
    return _measure(net, groups, dict(zip(names, net.feature_info.reduction(), strict=True)), image)


def _reference_maps(net: nn.Module, image: Tensor) -> list[Tensor]:
    try:
        maps = net(image)
    except Exception as error:  # a network for one image size only may raise anything
        raise NotAChainError(f"on an image of {PROBE_SIZE[0]}x{PROBE_SIZE[1]} it raises {_first_line(error)}") from error
    for channels, found in zip(net.feature_info.channels(), maps, strict=True):
        if found.ndim != 4 or found.shape[1] != channels:
            raise NotAChainError(f"a map is {tuple(found.shape)}, not (B, {channels}, h, w)")
    return maps


def _cut_children(net: nn.Module, image: Tensor) -> list[_Piece]:
    """The network's children, those that are stages cut into blocks."""
    pieces, x = [], image
    for name, child in net.named_children():
        cut = [] if name.startswith("stem") else _candidate_cut(child, name)
        whole = _run(net, [_Piece(name, block=False)], x)
        if cut and _same(_run_or_none(net, cut, x), whole):
            pieces += cut
        else:
            pieces.append(_Piece(name, block=False))
        x = whole
    return pieces


def _candidate_cut(module: nn.Module, path: str) -> list[_Piece]:
    """The blocks that a module would have if it is a stage, and nothing if it does not look like one.

    It looks like one if all its children have convolutions in them, or if it ends in a sequence of such after other layers
    (a downsampling, say).
    """
    children = [(f"{path}.{name}", child) for name, child in module.named_children()]
    if not children:
        return []
    last_path, last = children[-1]
    if isinstance(last, nn.Sequential) and not isinstance(module, nn.Sequential):
        blocks = _candidate_cut(last, last_path)
        return [*(_Piece(path, block=False) for path, _ in children[:-1]), *blocks] if blocks else []
    if not all(_has_convolutions(child) for _, child in children):
        return []
    cut = []
    for child_path, child in children:
        inner = _candidate_cut(child, child_path) if isinstance(child, nn.Sequential) else []
        cut += inner or [_Piece(child_path, block=True)]
    return cut


def _has_convolutions(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) for layer in module.modules() if layer is not module)


def _find_maps(net: nn.Module, pieces: Sequence[_Piece], image: Tensor, expected: Sequence[Tensor]) -> list[int]:
    """How many pieces it takes to each of timm's maps."""
    ends, x = [], image
    for count, piece in enumerate(pieces, start=1):
        x = _run(net, [piece], x)
        while len(ends) < len(expected) and _same(x, expected[len(ends)]):
            ends.append(count)
    if len(ends) < len(expected):
        raise NotAChainError(f"its map at stride {net.feature_info.reduction()[len(ends)]} is not what its layers "
                             "yield one after another")
    return ends


def _stage_name(stride: int) -> str:
    level = math.log2(stride)
    if not level.is_integer():
        raise NotAChainError(f"it has a map at stride {stride}, which is no power of 2")
    return f"res{max(int(level), int(math.log2(FIRST_STRIDE)))}"


def _check_complete(net: nn.Module, pieces: Sequence[_Piece]) -> None:
    owned = tuple(f"{piece.path}." for piece in pieces)
    left = [name for name, _ in net.named_parameters() if not name.startswith(owned)]
    if left:
        raise NotAChainError(f"{left[0]} is in no layer up to the last map")


def _group(pieces: Sequence[_Piece]) -> list[tuple[str, ...]]:
    """The pieces of one stage as blocks."""
    blocks, waiting = [], []
    for piece in pieces:
        waiting.append(piece.path)
        if piece.block:
            blocks.append(tuple(waiting))
            waiting = []
    if waiting:
        blocks[-1:] = [(*(blocks[-1] if blocks else ()), *waiting)]
    return blocks


def _measure(net: nn.Module, groups: dict[str, list[tuple[str, ...]]], strides: dict[str, int], image: Tensor) -> Chain:
    """Runs the blocks one after the other for their channels and strides."""
    stages, channels, block_strides, x = {}, [], [], image
    for name, blocks in groups.items():
        heights = []
        for layers in blocks:
            before = x.clone()
            out = nn.Sequential(*(net.get_submodule(path) for path in layers))(x)
            if not torch.equal(before, x):
                raise NotAChainError(f"{layers[0]} changes its input in place, which is the map of the block before it")
            x = out
            channels.append(x.shape[1])
            heights.append(x.shape[2])
        stages[name] = (len(block_strides), len(block_strides) + len(blocks))
        block_strides += [strides[name] * heights[-1] / height for height in heights]
    layers = tuple(block for blocks in groups.values() for block in blocks)
    return Chain(stages, layers, tuple(channels), tuple(block_strides))


def _run(net: nn.Module, pieces: Sequence[_Piece], x: Tensor) -> Tensor:
    x = x.clone()  # layers may work in place
    for piece in pieces:
        try:
            x = net.get_submodule(piece.path)(x)
        except Exception as error:  # a layer with other arguments than one map may raise anything
            raise NotAChainError(f"{piece.path}, run on the output of the layer before it, raises "
                                 f"{_first_line(error)}") from error
        if not isinstance(x, Tensor):
            raise NotAChainError(f"the output of {piece.path} is a {type(x).__name__}, not one map")
    return x


def _run_or_none(net: nn.Module, pieces: Sequence[_Piece], x: Tensor) -> Tensor | None:
    try:
        return _run(net, pieces, x)
    except NotAChainError:
        return None


def _same(found: Tensor | None, expected: Tensor) -> bool:
    if found is None or found.shape != expected.shape:
        return False
    return (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
