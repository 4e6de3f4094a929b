"""Recomputed activations: the same gradients from fewer bytes, for any number of backward passes, without a convolution."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pretrain.encoders import build_encoder
from pretrain.local.recompute import RecomputeRule, cheap_recompute, keep, rule_of

ENCODERS = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "shufflenet_v2_50": "shufflenet_v2_50",
    "presnet50": "presnet50",
    "efficientnet_b0": dict(type="TimmEncoder", name="efficientnet_b0"),
    "regnety_002": dict(type="TimmEncoder", name="regnety_002"),
}


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def residual_net() -> nn.Module:
    """conv-bn-relu, then two residual blocks, one with a projecting shortcut; activations in place as torchvision's."""
    torch.manual_seed(0)
    return build_encoder("resnet18").double().block(2)


def gradients(net: nn.Module, x: torch.Tensor, context, passes: int = 1) -> list[torch.Tensor]:
    """Sum of the gradients of several backward passes through one graph, at the input and all parameters."""
    x = x.clone().requires_grad_()
    leaves = [x, *net.parameters()]
    with context():
        out = net(x)
    grads = [torch.zeros_like(leaf) for leaf in leaves]
    for seed in range(passes):
        grad = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(seed))
        for total, found in zip(grads, torch.autograd.grad(out, leaves, grad, retain_graph=seed < passes - 1), strict=True):
            total += found
    return grads


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-9) -> None:
    largest = max(reference.abs().max() for reference in expected)
    for ours, reference in zip(found, expected, strict=True):
        assert (ours - reference).abs().max() <= tolerance * max(reference.abs().max(), 1e-3 * largest)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_are_those_of_kept_activations(images, name, passes):
    """On every kind of network: those that profit, and those whose activations must be kept as they are."""
    torch.manual_seed(0)
    encoder = build_encoder(ENCODERS[name])
    net = nn.Sequential(*(encoder.block(i) for i in range(4)))
    if name in ("resnet18", "resnet50"):
        net, images, tolerance = net.double(), images.double(), 1e-9
    else:
        tolerance = 1e-4  # grouped convolutions in float64 are too slow
    assert_close(gradients(net, images, cheap_recompute, passes), gradients(net, images, nullcontext, passes), tolerance)


@pytest.mark.parametrize("change", [
    lambda net: net.eval(),
    lambda net: [m.register_parameter("weight", None) for m in net.modules() if isinstance(m, nn.BatchNorm2d)],
    lambda net: [m.register_parameter("bias", None) for m in net.modules() if isinstance(m, nn.BatchNorm2d)],
    lambda net: [setattr(m, "inplace", False) for m in net.modules() if isinstance(m, nn.ReLU)],
], ids=["eval mode", "no scale", "no shift", "ReLU out of place"])
def test_other_batch_norms_and_relus(change):
    """Whatever has no rule is saved as always."""
    net = residual_net()
    change(net)
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    assert_close(gradients(net, x, cheap_recompute), gradients(net, x, nullcontext))


def test_other_operations_in_place_end_the_rule():
    """A sigmoid in place, a second sum, a scaled sum: the version of the memory tells, and the tensor is saved."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)

    class Net(nn.Module):
        def __init__(self, change):
            super().__init__()
            self.norm, self.change = norm, change

        def forward(self, x):
            return self.change(self.norm(x), x).square()

    for change in (
        lambda y, x: y.sigmoid_(), lambda y, x: F.relu(y) + x, lambda y, x: y.add_(x).add_(x).relu_(),
        lambda y, x: y.add_(1.0).relu_(), lambda y, x: y.add_(x, alpha=2).relu_(), lambda y, x: y[:1].add_(x[:1]).relu_(),
    ):
        net = Net(change)
        assert_close(gradients(net, x, cheap_recompute), gradients(net, x, nullcontext))


def test_changes_in_place_are_refused_as_autograd_refuses_them():
    """What a backward pass needs, or a rule, must not have changed: an addend after the sum, any saved tensor."""
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(4).double(), torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)

    def changed_addend():
        z = x * 3
        y = norm(1.5 * x).add_(z)
        z.relu_()
        return y.square() + z

    def changed_factor():
        y = x * 2
        out = y.square()
        y.mul_(2)
        return out

    for compute in (changed_addend, changed_factor):
        with cheap_recompute():
            out = compute()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_activations_are_given_back_and_no_convolution_runs_again():
    """Between forward and backward the block's inner activation is gone; its backward pass convolves nothing."""
    net = residual_net()
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64, requires_grad=True)
    alive = {}

    class CountConvolutions(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.calls += func is F.conv2d
            return func(*args, **(kwargs or {}))

    for name, context in (("kept", nullcontext), ("rule", cheap_recompute)):
        inner = []
        handle = net[0].conv2.register_forward_hook(lambda m, args, out, inner=inner: inner.append(weakref.ref(args[0])))
        with context():
            out = net(x)
        alive[name] = inner[0]() is not None
        handle.remove()
        with CountConvolutions() as convolutions:
            out.sum().backward()
        assert convolutions.calls == 0
    assert alive == {"kept": True, "rule": False}


def test_what_is_kept_is_not_made_again():
    """The output of a stage stays alive anyway: its rule ends there and serves the very same memory."""
    net = residual_net()
    with cheap_recompute():
        out = net(torch.randn(2, 64, 8, 8, dtype=torch.float64))
        rule = rule_of(out)
        assert isinstance(rule, RecomputeRule)
        keep(out)
    assert rule_of(out) is None
    assert rule.save().serve().data_ptr() == out.data_ptr()


def test_nothing_is_left_behind():
    """When graph and output go, so does every activation and rule, without the cycle collector."""
    net = residual_net()
    gc.disable()
    try:
        with cheap_recompute():
            out = net(torch.randn(2, 64, 8, 8, dtype=torch.float64))
            rule, memory = weakref.ref(rule_of(out)), weakref.ref(out.untyped_storage())
            keep(out)
        out.sum().backward()
        del out
        assert rule() is None
        assert memory() is None
    finally:
        gc.enable()
