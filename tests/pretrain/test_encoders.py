"""Encoders as chains of blocks, and decoders on them."""

from __future__ import annotations

import pytest
import torch

from pretrain.decoders import Decoder
from pretrain.encoders import build_encoder


@pytest.mark.parametrize(("name", "stages"), [
    ("resnet18", {"res2": (0, 2), "res3": (2, 4), "res4": (4, 6), "res5": (6, 8)}),
    ("resnet50", {"res2": (0, 3), "res3": (3, 7), "res4": (7, 13), "res5": (13, 16)}),
])
def test_blocks_stages_channels_and_strides(name, stages):
    """Stages are the field's, and what the encoder says of every block is what comes out of it."""
    encoder = build_encoder(name).eval()
    assert encoder.stages == stages
    x = torch.randn(1, 3, 64, 64)
    for index in range(encoder.num_blocks):
        x = encoder.run(x, index, index + 1)
        assert x.shape == (1, encoder.block_channels[index], *[64 // encoder.block_strides[index]] * 2)


def test_every_parameter_belongs_to_exactly_one_block():
    """Otherwise a unit would train too little or too much."""
    encoder = build_encoder("resnet50")
    by_block = [id(p) for i in range(encoder.num_blocks) for p in encoder.parameters_of(i, i + 1)]
    assert len(by_block) == len(set(by_block))
    assert set(by_block) == {id(p) for p in encoder.parameters()}


def test_replaced_layers_are_picked_up():
    """SyncBN conversion replaces modules; the blocks must run the new ones."""
    encoder = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build_encoder("resnet18"))
    norms = [m for i in range(encoder.num_blocks) for m in encoder.block(i).modules()
             if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 20
    assert all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)


@pytest.mark.parametrize(("spec", "message"), [
    ("resnet19", "unknown encoder 'resnet19'; nearest known names: resnet18"),
    (dict(type="resnet18", depth=3), "arguments of encoder 'resnet18' do not fit"),
])
def test_bad_encoders_are_refused(spec, message):
    """With the nearest known names."""
    with pytest.raises(ValueError, match=message):
        build_encoder(spec)


@pytest.mark.parametrize(("options", "linears", "convs"), [
    (dict(), 2, 0), (dict(conv_blocks=1), 2, 4), (dict(conv_blocks=1, downsample=False), 2, 3), (dict(mlp_layers=4), 4, 0),
])
def test_decoder_layers(options, linears, convs):
    """Bottleneck blocks (three convolutions, one more on a downsampling shortcut), pooling, MLP to 128-d."""
    decoder = Decoder(build_encoder("resnet50"), 2, **options)
    count = {kind: sum(isinstance(m, kind) for m in decoder.modules()) for kind in (torch.nn.Linear, torch.nn.Conv2d)}
    assert count == {torch.nn.Linear: linears, torch.nn.Conv2d: convs}
    assert decoder(torch.randn(4, 256, 8, 8)).shape == (4, 128)
    assert decoder.convs(torch.randn(4, 256, 8, 8)).shape[-1] == (4 if options.get("downsample", True) and convs else 8)


def test_bad_decoder_is_refused():
    """The offending values are in the message."""
    with pytest.raises(ValueError, match="mlp_layers=0"):
        Decoder(build_encoder("resnet18"), 1, mlp_layers=0)
