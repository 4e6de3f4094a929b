"""Convolutional networks of timm as encoders; timm itself is imported when the first of them is built.

timm's feature extractors (``features_only``) are cut into chains of blocks; a forward pass with random weights proves that
the cut changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet as tv_resnet

from pretrain.encoders.base import ENCODERS, Encoder
from pretrain.encoders.layers import init_like_resnet, projection
from pretrain.options import unknown_name

RESERVED_OPTIONS = ("features_only", "feature_cls", "num_classes", "in_chans", "device", "dtype")
WEIGHT_OPTIONS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
PROBE_SIZE = (96, 128)  # a multiple of 32, and not a square, as images of a detector are not
TOLERANCE = 1e-5
FIRST_STRIDE = 4  # maps at a smaller stride belong to the first stage


class _QuarterBottleneck(tv_resnet.Bottleneck):
    """torchvision's bottleneck with as many output channels as ``planes``, which need not be divisible by 4."""

    expansion = 1


@ENCODERS.register_module()
class TimmEncoder(Encoder):
    """A convolutional timm model as a chain of blocks, e.g. ``dict(type="TimmEncoder", name="convnext_tiny")``.

    The state dict is that of ``timm.create_model(name, features_only=True, **options)``, so weights are exchanged with timm
    by ``load_state_dict``. Weights never come from the network: save that state dict of a pretrained timm model with
    ``torch.save`` and pass the file wherever a backbone is asked for.

    Stages are named by the stride of timm's maps (4 is res2, 8 res3, 16 res4, 32 res5) and cut into the blocks that the
    network has; maps at strides below 4 belong to res2, and the stem to block 0. See :func:`cut_into_chain`.

    Args:
        name: an architecture of timm, without the tag of a set of weights.
        options: further arguments of ``timm.create_model`` such as ``drop_path_rate``.

    Raises:
        ValueError: timm has no such model, the model is not a chain of blocks (vision transformers, HRNets, networks with
            connections past a stage), or the options ask for weights or for something that an encoder decides itself.
    """

    def __init__(self, name: str, **options: Any) -> None:
        import timm  # takes a second or two

        for option in WEIGHT_OPTIONS:
            if options.pop(option, None):
                raise ValueError(f"TimmEncoder takes no {option!r}: it never downloads or loads weights; pass their file "
                                 "as a checkpoint instead")
        reserved = [option for option in RESERVED_OPTIONS if option in options]
        if reserved:
            raise ValueError(f"TimmEncoder sets {reserved[0]!r} itself; leave it out")
        known = timm.list_models()
        if name not in known:
            architecture = str(name).split("/")[-1].split(".")[0]  # of "hf_hub:timm/resnet50.a1_in1k", say
            raise unknown_name(f"model of timm {timm.__version__},", architecture, known)
        super().__init__()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            chain = _chain_of(name, options)
        for child_name, child in timm.create_model(name, features_only=True, pretrained=False, **options).named_children():
            self.add_module(child_name, child)
        self.stages, self.block_layers = chain.stages, chain.block_layers
        self.block_channels, self.block_strides = chain.block_channels, chain.block_strides

    def block(self, index: int) -> nn.Sequential:
        """See :meth:`Encoder.block`.

        Raises:
            RuntimeError: batch norms were converted by torch or mmengine, which drop the activation that timm has in them.
        """
        from timm.layers import BatchNormAct2d, SyncBatchNormAct

        block = super().block(index)
        for path, layer in block.named_modules():
            if isinstance(layer, _BatchNorm) and hasattr(layer, "act") \
                    and not isinstance(layer, (BatchNormAct2d, SyncBatchNormAct)):
                raise RuntimeError(f"batch norm {path} of block {index} has lost its activation in a conversion; convert "
                                   "with encoder.convert_sync_batchnorm(), and where a single process would revert that, "
                                   "leave synchronised batch norm off")
        return block

    def convert_sync_batchnorm(self) -> Encoder:
        """See :meth:`Encoder.convert_sync_batchnorm`; keeps the activations that timm's batch norms have in them."""
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(self)

    def head_block(self, index: int, stride: int) -> nn.Module:
        """A bottleneck block of a ResNet to a quarter of the channels, with a projecting shortcut where it downsamples."""
        channels = self.block_channels[index]
        shortcut = projection(channels, channels, stride) if stride != 1 else None
        # torchvision's width of the 3x3 is planes * base_width / 64
        block = _QuarterBottleneck(channels, channels, stride, shortcut, base_width=16)
        init_like_resnet(block)
        return block


@dataclass(frozen=True)
class Chain:
    """A network as a chain of blocks, in the terms of :class:`pretrain.encoders.base.Encoder`."""

    stages: dict[str, tuple[int, int]]
    block_layers: tuple[tuple[str, ...], ...]
    block_channels: tuple[int, ...]
    block_strides: tuple[float, ...]


@dataclass(frozen=True)
class _Part:
    """A layer of the chain; one that is not a ``block`` (of the stem, of a transition) goes with its neighbour."""

    path: str
    block: bool


def _chain_of(name: str, options: dict[str, Any]) -> Chain:
    """How a timm model is cut, determined on a separate instance."""
    import timm

    try:
        return cut_into_chain(timm.create_model(name, features_only=True, pretrained=False, **options))
    except TypeError:  # an option that the model does not have
        raise
    except Exception as error:  # networks that are not chains fail in any way when they are run as such
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"timm model {name!r} cannot be cut into a chain of blocks: {type(error).__name__}: {reason}"
                         ) from error


@torch.no_grad()
def cut_into_chain(net: nn.Module) -> Chain:
    """Cuts a timm ``features_only`` network into blocks.

    The network's children are run in order. One that is a sequence of modules with convolutions in them (a stage) is cut
    into these, any other is kept whole. Layers that are not blocks go with the block that follows in the same stage, or
    else with the one before. timm's maps end the stages; those of strides 1, 2 and 4 are one stage, res2, and maps of one
    stride are one stage too. The parameters of ``net`` are overwritten with random ones: layer scales and last batch norms
    that start near 0 would otherwise hide what a cut loses.

    Raises:
        ValueError: a map of timm's is not the output of any layer in the chain, a parameter is in none of the layers,
            or a block changes its input. Networks that are not chains may raise anything else.
    """
    net.eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.squeeze().ndim < 2:
            parameter.uniform_(0.5, 1.5, generator=generator)
    image = torch.randn(1, 3, *PROBE_SIZE, generator=generator)
    maps, reductions = net(image), net.feature_info.reduction()
    for channels, found in zip(net.feature_info.channels(), maps, strict=True):
        if found.ndim != 4 or found.shape[1] != channels:
            raise ValueError(f"a map is {tuple(found.shape)}, not (B, {channels}, h, w)")
    parts, ends, x = [], [], image
    for part in _parts_of(net, image):
        x = _run(net, [part], x)
        parts.append(part)
        if len(ends) < len(maps) and _same(x, maps[len(ends)]):
            ends.append(len(parts))
    if len(ends) < len(maps):
        raise ValueError(f"its map at stride {reductions[len(ends)]} is not the output of its layers one after another")
    owned = tuple(f"{part.path}." for part in parts[:ends[-1]])
    unused = [name for name, _ in net.named_parameters() if not name.startswith(owned)]
    if unused:
        raise ValueError(f"{unused[0]} is in no layer up to the last map")
    stages: dict[str, list[_Part]] = {}
    for reduction, start, end in zip(reductions, [0, *ends], ends, strict=False):
        level = max(math.log2(reduction), math.log2(FIRST_STRIDE))
        if not level.is_integer():
            raise ValueError(f"it has a map at stride {reduction}, which is not a power of 2")
        stages.setdefault(f"res{int(level)}", []).extend(parts[start:end])
    return _measure(net, {name: _group(stage) for name, stage in stages.items()}, image)


def _parts_of(net: nn.Module, x: Tensor) -> Iterator[_Part]:
    """The network's children, those that are stages cut into blocks."""
    for name, child in net.named_children():
        cut = [] if name.startswith("stem") else _candidate_cut(child, name)
        whole = _run(net, [_Part(name, block=False)], x)
        yield from cut if cut and _yields(net, cut, x, whole) else [_Part(name, block=False)]
        x = whole


def _candidate_cut(module: nn.Module, path: str) -> list[_Part]:
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
        return [*(_Part(path, block=False) for path, _ in children[:-1]), *blocks] if blocks else []
    if not all(_has_convolutions(child) for _, child in children):
        return []
    cut = []
    for child_path, child in children:
        inner = _candidate_cut(child, child_path) if isinstance(child, nn.Sequential) else []
        cut += inner or [_Part(child_path, block=True)]
    return cut


def _has_convolutions(module: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv2d) for layer in module.modules() if layer is not module)


def _group(parts: Sequence[_Part]) -> list[tuple[str, ...]]:
    """The parts of one stage as blocks."""
    blocks, waiting = [], []
    for part in parts:
        waiting.append(part.path)
        if part.block:
            blocks.append(tuple(waiting))
            waiting = []
    if waiting:
        blocks[-1:] = [(*(blocks[-1] if blocks else ()), *waiting)]
    return blocks


def _measure(net: nn.Module, stages: dict[str, list[tuple[str, ...]]], image: Tensor) -> Chain:
    """Runs the blocks one after the other for their channels and strides."""
    ranges, channels, strides, x = {}, [], [], image
    for name, blocks in stages.items():
        ranges[name] = (len(strides), len(strides) + len(blocks))
        for layers in blocks:
            before = x.clone()
            out = nn.Sequential(*(net.get_submodule(path) for path in layers))(x)
            if not torch.equal(before, x):
                raise ValueError(f"{layers[0]} changes its input in place, which is the map of the block before it")
            x = out
            channels.append(x.shape[1])
            strides.append(PROBE_SIZE[0] / x.shape[2])
    return Chain(ranges, tuple(block for blocks in stages.values() for block in blocks), tuple(channels), tuple(strides))


def _run(net: nn.Module, parts: Sequence[_Part], x: Tensor) -> Tensor:
    x = x.clone()  # layers may work in place
    for part in parts:
        x = net.get_submodule(part.path)(x)
        if not isinstance(x, Tensor):
            raise ValueError(f"the output of {part.path} is a {type(x).__name__}, not one map")
    return x


def _yields(net: nn.Module, parts: Sequence[_Part], x: Tensor, expected: Tensor) -> bool:
    try:
        return _same(_run(net, parts, x), expected)
    except Exception:  # a layer with other arguments than one map may raise anything
        return False


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
