"""The executor against a naive autograd reference in float64, and how much work it does."""

from __future__ import annotations

import collections
import copy
import weakref

import pytest
import torch
from torch import nn

from pretrain.encoders import build_encoder
from pretrain.heads import ProjectionHead
from pretrain.local.executor import LocalBackprop, segment_ranges
from pretrain.local.segments import RECOMPUTE, Segment
from pretrain.local.units import LocalUnit, build_units
from pretrain.objectives import NTXent

RULES = {
    "simclr": "simclr",
    "gim": "gim",
    "loco": "loco",
    "loco without the res2 loss": dict(type="loco", res2_loss=False),
    "window 3": dict(type="loco", window=3),
    "irregular": [(0, 1), (0, 5), (1, 5), (2, 3), (2, 8), (4, 6)],
    "nested": [(0, 8), (2, 4)],
    "upper layer gradient only": "upper_gradient",
    "sharing 1 block": dict(type="sharing", blocks=1),
    "sharing 2 blocks": dict(type="sharing", blocks=2),
    "window 4": dict(type="loco", window=4),
    "decoupled": dict(type="decoupled", k=8),
    "decoupled with overlap": dict(type="decoupled", k=8, window=2),
    "partly updated": [
        LocalUnit(0, 4, updates=(0, 2)), LocalUnit(0, 6), LocalUnit(1, 8, updates=(3, 5)), LocalUnit(2, 8, updates=(6, 8)),
    ],
}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder(dict(type="resnet18", width=16)).double()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def make_heads(encoder, units):
    torch.manual_seed(2)
    return nn.ModuleList(ProjectionHead(encoder, u.end - 1, conv_blocks=1, out_channels=16) for u in units).double()


def objectives_of(heads):
    loss = NTXent(temperature=0.5)
    return [lambda features, head=head: loss(head(features))[0] for head in heads]


def naive_gradients(encoder, units, heads, images):
    """Each unit on its own: the encoder below it without a graph, the unit's blocks with one, ``loss.backward()``."""
    encoder, heads = copy.deepcopy(encoder), copy.deepcopy(heads)
    buffers = copy.deepcopy(dict(encoder.named_buffers()))
    losses = []
    for unit, objective in zip(units, objectives_of(heads), strict=True):
        with torch.no_grad():
            x = encoder.run(images, 0, unit.start)
        loss = objective(encoder.run(x, unit.start, unit.end))
        first, last = unit.updates or (unit.start, unit.end)
        trained = [*encoder.parameters_of(first, last), *heads.parameters()]
        loss.backward(inputs=[p for p in trained if p.requires_grad])
        losses.append(loss.item())
        for name, buffer in encoder.named_buffers():  # the reference's repeated passes must not show
            buffer.copy_(buffers[name])
    return losses, {n: p.grad for n, p in [*encoder.named_parameters(), *heads.named_parameters()]}


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_gradients_equal_a_naive_reference(encoder, images, rule, recompute):
    """Loss k reaches exactly the blocks of unit k and its head, with the true gradient, for every kind of unit list."""
    encoder = copy.deepcopy(encoder)
    units = build_units(rule, encoder.stages, allow_untrained=True)
    heads = make_heads(encoder, units)
    losses, expected = naive_gradients(encoder, units, heads, images)
    found = LocalBackprop(encoder, units, allow_untrained=True, recompute=recompute).step(images, objectives_of(heads))

    assert [loss.item() for loss in found] == pytest.approx(losses, rel=1e-12)
    gradients = {n: p.grad for n, p in [*encoder.named_parameters(), *heads.named_parameters()]}
    for name, reference in expected.items():
        if reference is None:
            assert gradients[name] is None, name
        else:
            scale = reference.abs().max()
            assert (gradients[name] - reference).abs().max() <= 1e-10 * scale, name


@pytest.mark.slow
@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_running_statistics_are_updated_once(encoder, images, rule, recompute):
    """However many units share a stage, and however often it runs again, batch norm sees the batch once."""
    encoder, reference = copy.deepcopy(encoder), copy.deepcopy(encoder)
    units = build_units(rule, encoder.stages, allow_untrained=True)
    executor = LocalBackprop(encoder, units, allow_untrained=True, recompute=recompute)
    executor.step(images, objectives_of(make_heads(encoder, units)))
    reference.run(images, 0, reference.num_blocks)
    for (name, found), (_, expected) in zip(encoder.named_buffers(), reference.named_buffers(), strict=True):
        assert torch.equal(found, expected), name


@pytest.mark.parametrize(("rule", "passes"), [
    ("simclr", 1), ("gim", 1), ("loco", 2), (dict(type="loco", window=3), 2), (dict(type="loco", window=4), 1),
    ("upper_gradient", 2), (dict(type="sharing", blocks=1), 2), (RULES["irregular"], 4), (RULES["decoupled"], 1),
    (RULES["decoupled with overlap"], 2), (RULES["partly updated"], 4),
])
def test_backward_passes_per_segment(encoder, images, rule, passes, monkeypatch):
    """At most one pass a segment per distinct start (and updated range) of its units; only one computes weight gradients."""
    encoder = copy.deepcopy(encoder)
    units = build_units(rule, encoder.stages)
    heads = make_heads(encoder, units)
    passes_of = collections.defaultdict(list)
    real = Segment.backward

    def backward(segment, grad, weights, to_input, keep):
        passes_of[segment.start, segment.end].append("weights" if weights else "input")
        return real(segment, grad, weights, to_input, keep)

    monkeypatch.setattr(Segment, "backward", backward)
    LocalBackprop(encoder, units).step(images, objectives_of(heads))
    assert list(passes_of) and set(passes_of) == set(segment_ranges(units))
    for (start, end), kinds in passes_of.items():
        assert kinds.count("weights") == 1
        assert len(kinds) <= len({(u.start, u.updates) for u in units if u.start <= start and end <= u.end})
    assert max(map(len, passes_of.values())) == passes


def test_activations_are_freed_when_no_unit_above_needs_them(encoder, images):
    """While GIM's second stage decodes, the first stage's graph is gone; LoCo still holds it."""
    alive = {}
    for rule in ("gim", "loco"):
        copy_ = copy.deepcopy(encoder)
        units = build_units(rule, copy_.stages)
        heads = make_heads(copy_, units)
        held = []
        copy_.layer1[0].conv2.register_forward_hook(lambda m, args, out, held=held: held.append(weakref.ref(out)))
        plain = objectives_of(heads)

        def second(features, plain=plain, held=held, rule=rule):
            alive[rule] = held[0]() is not None
            return plain[1](features)

        LocalBackprop(copy_, units).step(images, [plain[0], second, *plain[2:]])
    assert alive == {"gim": False, "loco": True}


@pytest.mark.parametrize("recompute", ["stage", "block"])
def test_dropout_drops_the_same_again(images, recompute):
    """A stage that runs again draws the random numbers that it drew before, and the run's own go on undisturbed."""
    torch.manual_seed(0)
    encoder = build_encoder(dict(type="TimmEncoder", name="resnet18", drop_path_rate=0.5))
    units = build_units("loco", encoder.stages)
    heads = make_heads(encoder, units).float()
    gradients, following = [], []
    for mode in ("none", recompute):
        copy_ = copy.deepcopy(encoder)
        torch.manual_seed(7)
        LocalBackprop(copy_, units, recompute=mode).step(images.float(), objectives_of(heads))
        gradients.append([p.grad for p in copy_.parameters()])
        following.append(torch.rand(1))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)
    assert following[0] == following[1]


def test_untrained_blocks_run_without_a_graph(encoder, images):
    """Blocks that no unit reaches pass features on and get no gradient."""
    encoder = copy.deepcopy(encoder)
    units = [LocalUnit(4, 8)]
    LocalBackprop(encoder, units, allow_untrained=True).step(images, objectives_of(make_heads(encoder, units)))
    assert all(p.grad is None for p in encoder.parameters_of(0, 4))
    assert all(p.grad is not None for p in encoder.parameters_of(4, 8))


def test_one_objective_a_unit_is_needed(encoder, images):
    """Too few objectives are refused before anything runs."""
    units = build_units("gim", encoder.stages)
    with pytest.raises(ValueError, match="1 objectives for 4 local units"):
        LocalBackprop(encoder, units).step(images, objectives_of(make_heads(encoder, units[:1])))
