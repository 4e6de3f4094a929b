"""Projection heads on encoders."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tests.pretrain.custom_method  # noqa: F401  (registers a head)
from pretrain.encoders import build_encoder
from pretrain.figures.unit_text import units_as_text
from pretrain.heads import ProjectionHead
from pretrain.learner import LocalContrastiveLearner
from pretrain.results.method import describe_method, method_of_learner


@pytest.mark.parametrize(("options", "linears", "convs"), [
    (dict(), 2, 0), (dict(conv_blocks=1), 2, 4), (dict(conv_blocks=1, downsample=False), 2, 3), (dict(mlp_layers=4), 4, 0),
])
def test_head_layers(options, linears, convs):
    """Bottleneck blocks (three convolutions, one more on a downsampling shortcut), pooling, MLP to 128-d."""
    head = ProjectionHead(build_encoder("resnet50"), 2, **options)
    count = {kind: sum(isinstance(m, kind) for m in head.modules()) for kind in (torch.nn.Linear, torch.nn.Conv2d)}
    assert count == {torch.nn.Linear: linears, torch.nn.Conv2d: convs}
    assert head(torch.randn(4, 256, 8, 8)).shape == (4, 128)
    assert head.convs(torch.randn(4, 256, 8, 8)).shape[-1] == (4 if options.get("downsample", True) and convs else 8)


@pytest.mark.parametrize(("conv_blocks", "block", "blocks", "channels", "size"), [
    ("stage", 2, 4, 128, 8),  # res2's head is a res3
    ("stage", 12, 3, 512, 8),
    ("stage", 15, 3, 512, 8),  # res5 has no next stage: as many blocks as it has itself
    ("stage", 3, 3 + 6, 256, 8),  # a unit that shares one block of res3: the rest of res3, and res4
    ("stage", 13, 3, 512, 8),
    ("network", 2, 13, 512, 2),
    ("network", 8, 4 + 3, 512, 8),
    ("network", 15, 0, 512, 16),
])
def test_heads_as_deep_as_stages_or_the_network(conv_blocks, block, blocks, channels, size):
    """LoCo, section 5.4: blocks, widths and strides of the encoder's own continuation; at 16 px a side."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet34")
    head = ProjectionHead(encoder, block, conv_blocks, fresh_encoder=lambda: build_encoder("resnet34"))
    assert len(head.convs) == blocks
    x = torch.randn(2, encoder.block_channels[block], 16, 16)
    assert head.convs(x).shape == (2, channels, size, size)
    assert head(x).shape == (2, 128)
    own = {p.data_ptr() for p in encoder.parameters()}
    assert not any(p.data_ptr() in own for p in head.parameters())


@pytest.mark.parametrize("channels_of_block", [(0, 64), (3, 128), (6, 512)])
def test_projector_of_decoupled_simclr(channels_of_block):
    """Second paper, appendix: the layers in its words, with the same weights, give the same projections."""
    block, channels = channels_of_block
    torch.manual_seed(0)
    head = ProjectionHead(build_encoder("resnet18"), block, "plain_conv", norm="none")
    reference = nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 128),
    )
    for theirs, ours in zip(reference.parameters(), head.parameters(), strict=True):
        theirs.data.copy_(ours.data)
    x = torch.randn(4, channels, 9, 9)
    torch.testing.assert_close(head(x), reference(x))


def test_projector_at_the_end_is_simclrs():
    """Second paper, appendix: pooling and a 2-layer MLP for the final layer, on whichever encoder."""
    head = ProjectionHead(build_encoder("resnet18"), 7, "plain_conv", norm="none")
    assert [type(m) for m in head.modules() if not any(m.children())] == [
        nn.Sequential, nn.AdaptiveAvgPool2d, nn.Linear, nn.ReLU, nn.Linear]
    assert head(torch.randn(2, 512, 3, 3)).shape == (2, 128)


def test_plain_convolution_without_downsampling():
    """``downsample=False`` keeps the resolution, as it does for residual blocks."""
    head = ProjectionHead(build_encoder("resnet18"), 3, "plain_conv", downsample=False)
    assert head.convs(torch.randn(2, 128, 9, 9)).shape == (2, 128, 9, 9)


def test_blocks_are_made_anew():
    """Layers like the encoder's, with other random weights."""
    torch.manual_seed(0)
    encoder = build_encoder("resnet18")
    head = ProjectionHead(encoder, 1, "stage", fresh_encoder=lambda: build_encoder("resnet18"))
    ours, own = head.convs[0][0].conv1.weight, encoder.layer2[0].conv1.weight
    assert ours.shape == own.shape and not torch.equal(ours, own)


@pytest.mark.parametrize(("norm", "norms", "biases"), [
    ("hidden", [True, True, False], [False, False, True]),
    ("all", [True] * 3, [False] * 3),
    ("none", [False] * 3, [True] * 3),
])
def test_place_of_the_normalisation(norm, norms, biases):
    """Batch norm follows a linear layer directly, which then has no bias; ReLU follows all but the last."""
    layers = list(ProjectionHead(build_encoder("resnet18"), 1, mlp_layers=3, norm=norm).mlp)
    positions = [i for i, layer in enumerate(layers) if isinstance(layer, torch.nn.Linear)]
    followers = [layers[i + 1] if i + 1 < len(layers) else None for i in positions]
    assert [isinstance(layer, torch.nn.BatchNorm1d) for layer in followers] == norms
    assert [layers[i].bias is not None for i in positions] == biases
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in layers) == 2 and not isinstance(layers[-1], torch.nn.ReLU)


@pytest.mark.parametrize(("options", "message"), [
    (dict(mlp_layers=0), "mlp_layers=0; at least 1"),
    (dict(conv_blocks=-1), "conv_blocks=-1; a number of at least 0 or one of stage, network, plain_conv"),
    (dict(conv_blocks="stages"), "conv_blocks='stages'; a number of at least 0 or one of stage, network, plain_conv"),
    (dict(conv_blocks=1.5), "conv_blocks=1.5"),
    (dict(conv_blocks="stage"), "needs fresh_encoder"),
    (dict(norm="last"), "norm='last'; known are hidden, all, none"),
])
def test_bad_head_is_refused(options, message):
    """The offending value and the known ones are in the message."""
    with pytest.raises(ValueError, match=message):
        ProjectionHead(build_encoder("resnet18"), 1, **options)


def test_a_head_of_the_users_own_class():
    """Chosen by ``type``; the objective's options for the usual head do not reach it, its width the predictor does."""
    options = dict(type="MaxPoolHead", width=12)
    learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "gim", options, "SimSiam")
    learner.backward(torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8))
    assert [tuple(head.linear.weight.shape) for head in learner.heads] == [(12, 8), (12, 16), (12, 32), (12, 64)]
    assert all(objective.predictor[0].in_features == 12 for objective in learner.objectives)
    method = method_of_learner(learner)
    assert method["head"] == options and method["label"] == "GIM, SimSiam, head MaxPoolHead, width=12"
    assert "MaxPoolHead" in units_as_text(dict(encoder="resnet18", rule="gim", head=options))
    usual = [describe_method("gim", head=head)["key"] for head in (None, dict(type="ProjectionHead"))]
    assert len(set(usual)) == 1
    for head, message in ((dict(type="MaxPolHead"), "unknown head 'MaxPolHead'.*did you mean 'MaxPoolHead'"),
                          (dict(options, conv_blocks=1), "unknown option 'conv_blocks'"),
                          ("MaxPoolHead", "dict of options")):
        with pytest.raises(ValueError, match=message):
            LocalContrastiveLearner("resnet18", "gim", head)
