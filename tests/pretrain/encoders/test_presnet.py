"""PResNet-50: the numbers of LoCo's table 6 and of its supplement, and sizes."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from pretrain.encoders import build_encoder
from pretrain.encoders.presnet import BasicBlock, BilinearResize, Bottleneck
from tests.pretrain.encoders.measure import build_on_meta, shares, stage_macs

STAGES = ["res2", "res3", "res4", "res5", "res6", "res7"]


def memory(encoder):
    """Elements of all 1x1 and 3x3 outputs in residual branches at their stage's output size (what table 6 counts)."""
    x, elements = torch.empty(1, 3, 224, 224, device="meta"), {}
    for name, (start, end) in encoder.stages.items():
        x = encoder.run(x, start, end)
        convs = [m for path, m in getattr(encoder, name).named_modules()
                 if isinstance(m, nn.Conv2d) and "downsample" not in path]
        elements[name] = sum(m.out_channels for m in convs) * x.shape[-2] * x.shape[-1]
    return elements


@pytest.mark.parametrize(("size", "sides"), [
    ((800, 1333), [(200, 334), (129, 215), (86, 143), (57, 95), (43, 71), (29, 47)]),
    ((1, 1), [(1, 1)] * 6),
])
def test_sizes_of_other_images(size, sides):
    """The ratios hold for images of a detector, rounded stage by stage, and no image is too small."""
    features = build_on_meta("presnet50")(torch.empty(1, 3, *size, device="meta"))
    assert [tuple(f.shape[-2:]) for f in features.values()] == sides


def test_flops_shares_are_the_papers():
    """Table 6 with convolutions alone: the network that the paper measured."""
    macs = stage_macs(build_on_meta("presnet50"), 224)
    assert sum(macs.values()) == pytest.approx(4.16e9, rel=0.015)
    assert shares(macs) == pytest.approx([13.50, 14.63, 14.77, 16.62, 20.45, 20.04], abs=0.05)


def test_memory_shares_are_the_papers():
    """Table 6 to the second decimal, with 128 and 512 channels in res4."""
    assert shares(memory(build_on_meta("presnet50_res4_128"))) == pytest.approx(
        [15.46, 10.96, 19.48, 17.31, 19.48, 17.31], abs=0.02)


@pytest.mark.parametrize(("name", "giga", "grouped"), [
    ("presnet50", 4.14, {"res7.1", "res7.2"}),
    ("presnet50_printed", 3.79, {"res5.1", "res5.2", "res6.1", "res6.2", "res7.1", "res7.2"}),
    ("presnet50_res4_128", 4.00, {"res7.1", "res7.2"}),
])
def test_variants(name, giga, grouped):
    """What sets the three apart: total, the blocks whose last 1x1 is grouped, and the width of res4."""
    encoder = build_on_meta(name)
    assert sum(stage_macs(encoder, 224).values()) == pytest.approx(giga * 1e9, rel=0.002)
    bottlenecks = {path: m for path, m in encoder.named_modules() if isinstance(m, Bottleneck)}
    assert {path for path, m in bottlenecks.items() if m.conv3.groups > 1} == grouped
    assert encoder.block_channels[6] == (512 if name == "presnet50_res4_128" else 576)
    for path, block in bottlenecks.items():
        groups = {"res4": 1, "res5": 2, "res6": 16, "res7": 128}[path.split(".")[0]]
        assert (block.conv1.groups, block.conv2.groups) == (groups, groups)
        assert block.conv3.groups in (1, groups)


def test_blocks_and_shortcuts():
    """Basic blocks in res2 and res3; the first block of every stage projects, res2's without downsampling."""
    encoder = build_on_meta("presnet50")
    for name in STAGES:
        blocks = list(getattr(encoder, name))
        assert all(isinstance(b, BasicBlock if name in ("res2", "res3") else Bottleneck) for b in blocks)
        assert [b.downsample is not None for b in blocks] == [True, False, False]
        assert [isinstance(b.resize, BilinearResize) for b in blocks] == [name != "res2", False, False]


def test_interpolation_saves_no_tensor_for_backward():
    """Memory is this network's point."""
    saved = []
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t), lambda t: t):
        BilinearResize(Fraction(2, 3))(x)
    assert not saved


@torch.no_grad()
def test_bottleneck_is_the_formula():
    """Interpolation after the first 1x1 and before the shortcut's, written out."""
    torch.manual_seed(0)
    encoder = build_encoder("presnet50").eval()
    block, x = encoder.res5[0], torch.randn(1, 576, 6, 6)

    def halved(t):
        return nn.functional.interpolate(t, size=(4, 4), mode="bilinear", align_corners=False)

    out = halved(block.bn1(block.conv1(x)).relu())
    out = block.bn3(block.conv3(block.bn2(block.conv2(out)).relu()))
    torch.testing.assert_close(block(x), (out + block.downsample(halved(x))).relu())
