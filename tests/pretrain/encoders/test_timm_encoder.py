"""timm's networks as chains: same maps and names as timm's own, and clear refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from pretrain.encoders import build_encoder
from pretrain.encoders.timm_encoder import cut_into_chain

DEPTHS = {
    "resnet50d": [3, 4, 6, 3], "convnext_tiny": [3, 3, 9, 3], "regnety_008": [1, 3, 8, 2], "efficientnet_b0": [3, 2, 6, 5],
    "darknet53": [3, 8, 8, 4], "densenet121": [1, 1, 1, 1],
}


def build(name, **options):
    return build_encoder(dict(type="TimmEncoder", name=name, **options))


@pytest.mark.parametrize(("name", "depths"), DEPTHS.items())
@torch.no_grad()
def test_maps_and_names_are_timms(name, depths):
    """The state dict goes to timm's features_only network and back, the maps are the same, and every block of the network
    is a block; what is not a sequence of blocks to timm (a dense block) stays whole."""
    import timm

    torch.manual_seed(0)
    encoder = build(name).eval()
    reference = timm.create_model(name, features_only=True, pretrained=False).eval()
    reference.load_state_dict(encoder.state_dict(), strict=True)
    encoder.load_state_dict(reference.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 96)
    found, expected = encoder(images), reference(images)
    assert list(found) == ["res2", "res3", "res4", "res5"]
    for mine, theirs in zip(found.values(), expected[-4:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert [end - start for start, end in encoder.stages.values()] == depths
    assert encoder.block_strides[-1] == 32


def test_the_stem_is_in_block_0():
    """With the map at stride 2 that timm has between the stem's layers."""
    assert build("resnet50d").block_layers[:2] == (("conv1", "bn1", "act1", "maxpool", "layer1.0"), ("layer1.1",))
    assert build("efficientnet_b0").block_strides[:2] == (2, 4)


def test_options_reach_timm():
    """Maps of one stride make one stage."""
    encoder = build("resnet50d", output_stride=16)
    assert encoder.stages == {"res2": (0, 3), "res3": (3, 7), "res4": (7, 16)}
    assert encoder.block_strides[-1] == 16


def test_building_takes_no_more_random_numbers_than_timm():
    """The network that the cut is tried on leaves the random state alone, so seeds mean what they mean in timm."""
    import timm

    torch.manual_seed(0)
    encoder = build("efficientnet_b0")
    torch.manual_seed(0)
    reference = timm.create_model("efficientnet_b0", features_only=True, pretrained=False)
    for (name, mine), theirs in zip(encoder.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("name", [
    "vit_tiny_patch16_224", "xception41", "hrnet_w18_small", "selecsls42b", "mambaout_femto", "swin_tiny_patch4_window7_224",
])
def test_networks_that_are_not_chains_are_refused(name):
    """Maps from inside the forward pass or by hooks, branches, connections past layers, other layouts and sizes."""
    with pytest.raises(ValueError, match=f"timm model '{name}' cannot be cut into a chain of blocks: "):
        build(name)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("convnext_tinny", {}, "unknown model of timm .*'convnext_tinny'.*'convnext_tiny'"),
    ("resnet50d", dict(pretrained=True), "takes no 'pretrained': it never downloads"),
    ("resnet50d", dict(features_only=False), "sets 'features_only' itself"),
    ("resnet50d", dict(deepth=3), "arguments of encoder 'TimmEncoder' do not fit: .*deepth"),
])
def test_bad_arguments_are_refused(name, options, message):
    """Before anything is loaded from anywhere."""
    with pytest.raises(ValueError, match=message):
        build(name, **options)


class ToyNet(nn.Sequential):
    """A features_only network: runs its children, one of which may have a twist, and returns the last map."""

    class feature_info:
        reduction = staticmethod(lambda: [4])
        channels = staticmethod(lambda: [4])

    def __init__(self, twist: str) -> None:
        super().__init__(nn.Conv2d(3, 4, 4, stride=4), self.stage(inplace=twist == "inplace"))
        self.twist = twist
        if twist == "unused":
            self.extra = nn.Parameter(torch.zeros(1))

    @staticmethod
    def stage(inplace: bool) -> nn.Sequential:
        return nn.Sequential(*(nn.Sequential(nn.ReLU(inplace), nn.Conv2d(4, 4, 1)) for _ in range(2)))

    def forward(self, x):
        x = self[0](x)
        out = self[1](x)
        return [out + 1e-3 * x if self.twist == "skip" else out]


@pytest.mark.parametrize(("twist", "reason"), [
    ("skip", "its map at stride 4 is not the output of its layers"),
    ("unused", "extra is in no layer"),
    ("inplace", "changes its input in place"),
])
def test_silent_breaks_of_the_chain_are_found(twist, reason):
    """A small connection past a stage, a parameter outside of the layers, a block that overwrites its input."""
    with pytest.raises(ValueError, match=reason):
        cut_into_chain(ToyNet(twist))
    assert cut_into_chain(ToyNet("none")).block_layers == (("0", "1.0"), ("1.1",))


def test_synchronised_batch_norm_keeps_activations():
    """torch's own conversion drops the activation in timm's batch norms without a word: it is refused, ours is not."""
    encoder = build("regnety_008").eval()
    images = torch.randn(1, 3, 32, 32)
    expected = encoder(images)["res5"]
    broken = nn.SyncBatchNorm.convert_sync_batchnorm(build("regnety_008"))
    with pytest.raises(RuntimeError, match="has lost its activation"):
        broken.block(0)
    assert torch.equal(encoder.convert_sync_batchnorm()(images)["res5"], expected)  # in eval mode it runs as plain


def test_timm_is_imported_when_it_is_needed():
    """It takes a second or two."""
    code = "import sys, pretrain.encoders; pretrain.encoders.build_encoder('resnet18'); sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
