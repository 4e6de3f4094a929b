"""Decoupled SimCLR: what a loss changes, and what a step costs, against the second paper's numbers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from pretrain.costs.complexity import unit_macs
from pretrain.costs.memory import step_cost
from pretrain.encoders import Encoder, build_encoder
from pretrain.encoders.resnet import build_resnet
from pretrain.heads import ProjectionHead
from pretrain.local.executor import LocalBackprop
from pretrain.local.units import build_units
from pretrain.objectives import NTXent

PROJECTOR = dict(conv_blocks="plain_conv", norm="none")
KS = (1, 4, 8, 16)
LARGEST_BLOCK_MACS = {  # table 1, "Max MACs"
    ("small", 32): (1.31e9, 349e6, 196e6, 123e6),
    ("stl", 224): (17.1e9, 4.65e9, 2.63e9, 1.69e9),
}
CIFAR10_MEMORY = dict(zip(KS, (13.5e9, 8.7e9, 6.3e9, 5.6e9), strict=True))  # table 1, "Memory"


def narrow_resnet50() -> Encoder:
    """ResNet-50's 16 blocks with an eighth of its channels."""
    return build_resnet(Bottleneck, [3, 4, 6, 3], stem="small", width=8)


@pytest.mark.parametrize("k", [4, 8, 16])
def test_a_loss_changes_exactly_its_unit(k):
    """Loss k alone changes every parameter of unit k and its projector, and no other, in one forward pass."""
    torch.manual_seed(0)
    encoder, loss = narrow_resnet50(), NTXent(temperature=0.5)
    units = build_units(dict(type="decoupled", k=k), encoder.stages)
    heads = nn.ModuleList(ProjectionHead(encoder, unit.end - 1, **PROJECTOR, out_channels=16) for unit in units)
    images = torch.randn(6, 3, 16, 16)
    passes = Counter()
    for name, layer in encoder.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *_, name=name: passes.update([name]))
    start = [p.detach().clone() for p in (*encoder.parameters(), *heads.parameters())]
    for index, unit in enumerate(units):
        parameters = [*encoder.parameters(), *heads.parameters()]
        for parameter, value in zip(parameters, start, strict=True):
            parameter.data.copy_(value)
            parameter.grad = None
        objectives = [lambda x, i=i, chosen=index: loss(heads[i](x))[0] * float(i == chosen) for i in range(k)]
        LocalBackprop(encoder, units).step(images, objectives)
        torch.optim.SGD(parameters, lr=1.0).step()
        expected = {id(p) for p in (*encoder.parameters_of(unit.start, unit.end), *heads[index].parameters())}
        assert {id(p) for p, old in zip(parameters, start, strict=True) if not torch.equal(p, old)} == expected, unit
    assert set(passes.values()) == {k}  # one a step


@pytest.mark.parametrize(("stem", "size"), LARGEST_BLOCK_MACS)
def test_macs_of_the_largest_block(stem, size):
    """Table 1 within 2.5 %, from convolutions alone and without projectors, of ResNet-50."""
    with torch.device("meta"):
        encoder = build_encoder(dict(type="resnet50", stem=stem))
    found = [max(unit_macs(encoder, build_units(dict(type="decoupled", k=k), encoder.stages), size)) for k in KS]
    assert found == pytest.approx(LARGEST_BLOCK_MACS[stem, size], rel=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("k", KS)
def test_memory_of_a_step(k):
    """Table 1's memory on CIFAR-10 within 3.5 %: the peak of a step at batch 256 in float32, with Adam's two moments."""
    cost = step_cost(dict(type="resnet50", stem="small"), dict(rule=dict(type="decoupled", k=k), head=PROJECTOR),
                     batch_size=256, image_size=32)
    assert cost.peak_bytes + 2 * cost.optimizer_bytes == pytest.approx(CIFAR10_MEMORY[k], rel=0.035)
