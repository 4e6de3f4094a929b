"""What holds for every encoder: blocks, stages, channels, strides, head blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.encoders import build_encoder

SIZE = 64
SPECS = [
    "resnet18", "resnet34", "resnet50", dict(type="resnet18", stem="stl"), dict(type="resnet18", stem="small"),
    "shufflenet_v2_50", "presnet50", "presnet50_printed", "presnet50_res4_128",
    *(dict(type="TimmEncoder", name=name) for name in ("resnet50d", "convnext_tiny", "regnety_008", "efficientnet_b0")),
]


def spell(spec):
    return spec if isinstance(spec, str) else "-".join(str(value) for value in spec.values())


@pytest.fixture(scope="module", params=SPECS, ids=spell)
def encoder(request):
    torch.manual_seed(0)
    return build_encoder(request.param).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_every_parameter_belongs_to_exactly_one_block(encoder):
    """Otherwise a unit would train too little or too much."""
    by_block = [id(p) for i in range(encoder.num_blocks) for p in encoder.parameters_of(i, i + 1)]
    assert len(by_block) == len(set(by_block))
    assert set(by_block) == {id(p) for p in encoder.parameters()}


@torch.no_grad()
def test_blocks_stages_channels_and_strides(encoder, images):
    """Forward is the chain of the blocks, stages cover them without gaps, and no block changes the map that it is given;
    what the encoder says of every block is what comes out of it."""
    features = encoder(images)
    assert list(features) == list(encoder.stages)
    ends = {end: name for name, (_, end) in encoder.stages.items()}
    assert [start for start, _ in encoder.stages.values()] == [0, *list(ends)[:-1]]
    assert list(ends)[-1] == encoder.num_blocks == len(encoder.block_layers) == len(encoder.block_strides)
    x = images
    for index in range(encoder.num_blocks):
        before = x.clone()
        out = encoder.run(x, index, index + 1)
        assert torch.equal(before, x)
        x = out
        assert x.shape[:2] == (1, encoder.block_channels[index])
        assert abs(x.shape[-1] - SIZE / encoder.block_strides[index]) <= 1
        if index + 1 in ends:
            assert torch.equal(x, features[ends[index + 1]])


def test_block_0_is_the_stem_and_then_the_first_residual_block(encoder):
    """The first layer is the convolution on the image, the last child has convolutions in it."""
    block = encoder.block(0)
    assert next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels == 3
    assert not isinstance(block[-1], nn.Conv2d) and any(isinstance(m, nn.Conv2d) for m in block[-1].modules())


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_head_blocks(encoder, stride):
    """They keep the channels, halve an even and an odd resolution as asked, and are fresh at each call."""
    for index in {end - 1 for _, end in encoder.stages.values()}:
        channels = encoder.block_channels[index]
        with torch.device("meta"):
            block, other = encoder.head_block(index, stride), encoder.head_block(index, stride)
        assert not {id(p) for p in block.parameters()} & {id(p) for p in other.parameters()}
        shape = block(torch.empty(2, channels, 8, 7, device="meta")).shape
        assert shape == ((2, channels, 4, 4) if stride == 2 else (2, channels, 8, 7))


def test_gradients_reach_every_parameter(images):
    """In training mode, through every kind of layer of our own."""
    for name in ("presnet50", "shufflenet_v2_50"):
        encoder = build_encoder(name)
        encoder(images.repeat(2, 1, 1, 1))[list(encoder.stages)[-1]].square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(("name", "norms"), [
    ("resnet18", 20), (dict(type="TimmEncoder", name="regnety_008"), 47),
])
def test_replaced_layers_are_picked_up(name, norms):
    """SyncBN conversion replaces modules; the blocks must run the new ones."""
    encoder = build_encoder(name).convert_sync_batchnorm()
    found = [m for i in range(encoder.num_blocks) for m in encoder.block(i).modules()
             if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(found) == norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in found)


@pytest.mark.parametrize(("spec", "message"), [
    ("resnet19", "unknown encoder 'resnet19'.*'resnet18'"),
    ("presnet", "unknown encoder 'presnet'.*'presnet50'"),
    (dict(type="resnet18", depth=3), "arguments of encoder 'resnet18' do not fit"),
    (dict(type="TimmEncoder"), "arguments of encoder 'TimmEncoder' do not fit"),
])
def test_bad_encoders_are_refused(spec, message):
    """With the nearest known names."""
    with pytest.raises(ValueError, match=message):
        build_encoder(spec)
