"""ShuffleNet v2-50: units against torchvision's, and the paper's size of the network."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.shufflenetv2 import InvertedResidual

from pretrain.encoders.shufflenet import ShuffleUnit
from tests.pretrain.encoders.measure import build_on_meta, stage_macs


def test_stages_and_channels():
    """3, 4, 6 and 3 units; the last 1x1 convolution is part of the last block."""
    encoder = build_on_meta("shufflenet_v2_50")
    assert encoder.stages == {"res2": (0, 3), "res3": (3, 7), "res4": (7, 13), "res5": (13, 16)}
    assert encoder.block_channels == (*[244] * 3, *[488] * 4, *[976] * 6, *[1952] * 2, 2048)
    assert encoder.block_strides == (*[4] * 3, *[8] * 4, *[16] * 6, *[32] * 3)
    assert sum(isinstance(m, ShuffleUnit) for m in encoder.modules()) == 16
    assert [name for name, m in encoder.named_modules() if isinstance(m, ShuffleUnit) and m.projects] == [
        "res2.0", "res3.0", "res4.0", "res5.0"]
    features = encoder(torch.empty(1, 3, 224, 224, device="meta"))
    assert [f.shape[-1] for f in features.values()] == [56, 28, 14, 7]


def test_multiply_adds():
    """2.3 G at 224 px, as the ShuffleNet v2 paper says of its large model."""
    assert sum(stage_macs(build_on_meta("shufflenet_v2_50"), 224).values()) == pytest.approx(2.30e9, rel=0.01)


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(8, 8, 1), (8, 8, 2), (8, 20, 2)])
@torch.no_grad()
def test_units_are_torchvisions(in_channels, out_channels, stride):
    """Same parameter names and, from the same weights, the same output wherever torchvision has such a unit."""
    torch.manual_seed(0)
    reference = InvertedResidual(in_channels, out_channels, stride)
    unit = ShuffleUnit(in_channels, out_channels, stride)
    unit.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, in_channels, 6, 6)
    assert torch.equal(unit(x), reference(x))


@torch.no_grad()
def test_unit_that_changes_the_width_only():
    """The unit of res2: both branches project, the size stays, and it has the parameters of one with stride 2."""
    unit, reference = ShuffleUnit(64, 244), InvertedResidual(64, 244, 2)
    assert {k: v.shape for k, v in unit.state_dict().items()} == {k: v.shape for k, v in reference.state_dict().items()}
    assert unit(torch.randn(1, 64, 5, 5)).shape == (1, 244, 5, 5)
