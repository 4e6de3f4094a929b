"""Convolutional networks of timm as encoders; timm itself is imported when the first of them is built."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet as tv_resnet

from pretrain.encoders.base import ENCODERS, Encoder
from pretrain.encoders.layers import init_like_resnet, projection
from pretrain.encoders.timm_chain import Chain, NotAChainError, cut_into_chain

RESERVED_OPTIONS = ("features_only", "feature_cls", "num_classes", "in_chans", "device", "dtype")
WEIGHT_OPTIONS = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
# by the class of the features_only network: how timm gets at maps that are not on a chain of modules
INDIRECT_FEATURES = {
    "FeatureGetterNet": "timm takes its maps out of the middle of its forward pass",
    "FeatureHookNet": "timm takes its maps with hooks",
    "FeatureGraphNet": "timm takes its maps from a traced graph",
}


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
    network has; maps at strides below 4 belong to res2, and the stem to block 0. See
    :func:`pretrain.encoders.timm_chain.cut_into_chain`.

    Args:
        name: an architecture of timm, without the tag of a set of weights.
        options: further arguments of ``timm.create_model`` such as ``drop_path_rate``.

    Raises:
        ValueError: timm has no such model, the model is no chain of blocks (vision transformers, HRNets, networks with
            connections past a stage), or the options ask for weights or for something that an encoder decides itself.
    """

    def __init__(self, name: str, **options: Any) -> None:
        import timm
        from timm.layers import BatchNormAct2d, SyncBatchNormAct

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
            near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.4) or known[:3]
            raise ValueError(f"timm {timm.__version__} has no model {name!r}; nearest known names: {', '.join(near)}")
        super().__init__()
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            chain = _chain_of(name, options)
        for child_name, child in _create(name, options).named_children():
            self.add_module(child_name, child)
        self.stages, self.block_layers = chain.stages, chain.block_layers
        self.block_channels, self.block_strides = chain.block_channels, chain.block_strides
        self._norm_act_types = (BatchNormAct2d, SyncBatchNormAct)

    def block(self, index: int) -> nn.Sequential:
        """See :meth:`Encoder.block`.

        Raises:
            RuntimeError: batch norms were converted by torch or mmengine, which drop the activation that timm has in them.
        """
        block = super().block(index)
        for path, layer in block.named_modules():
            if isinstance(layer, _BatchNorm) and hasattr(layer, "act") and not isinstance(layer, self._norm_act_types):
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


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    """timm's network for feature maps, or a ValueError where timm has none for this model or refuses an option."""
    import timm

    try:
        return timm.create_model(name, features_only=True, pretrained=False, **options)
    except (AssertionError, AttributeError, KeyError, RuntimeError) as error:
        raise ValueError(f"timm model {name!r} cannot be cut into a chain of blocks: timm makes no feature extractor of it "
                         f"({type(error).__name__}: {error})") from error


def _chain_of(name: str, options: dict[str, Any]) -> Chain:
    """How a timm model is cut; a network of its own is made for finding out."""
    net = _create(name, options)
    try:
        if type(net).__name__ in INDIRECT_FEATURES:
            raise NotAChainError(INDIRECT_FEATURES[type(net).__name__])
        return cut_into_chain(net)
    except NotAChainError as error:
        raise ValueError(f"timm model {name!r} cannot be cut into a chain of blocks: {error}") from error
