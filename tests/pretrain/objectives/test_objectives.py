"""Every objective against its paper's formula in float64, on one and several processes, and under every rule."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from pretrain.distributed import comm
from pretrain.distributed.data_parallel import DataParallelLearner
from pretrain.distributed.sync_batchnorm import convert_batchnorm
from pretrain.learner import LocalContrastiveLearner
from pretrain.objectives import BYOL, BarlowTwins, MoCoV2, Objective, SimSiam, VICReg, build_objective
from tests.pretrain.processes import run_in_processes

WIDTH = 4
SPECS = {
    "BarlowTwins": dict(redundancy=0.3),
    "VICReg": dict(invariance=3.0, variance=2.0, covariance=0.5),
    "SimSiam": dict(hidden_channels=6),
    "BYOL": dict(hidden_channels=6),
    "MoCoV2": dict(queue_size=24, temperature=0.3),
}
RULES = {"simclr": "simclr", "gim": "gim", "loco": "loco", "units": [(0, 3), (2, 8), (1, 8)]}


def barlow_twins(objective: BarlowTwins, z1: Tensor, z2: Tensor) -> Tensor:
    """Zbontar et al., eq. 1 and 2, element by element, with the official batch norm's 1e-5 under the roots."""
    n, width = z1.shape
    a, b = z1 - z1.mean(0), z2 - z2.mean(0)
    total = 0.0
    for i in range(width):
        for j in range(width):
            norms = (a[:, i].square().sum() / n + 1e-5).sqrt() * (b[:, j].square().sum() / n + 1e-5).sqrt()
            c = (a[:, i] * b[:, j]).sum() / n / norms
            total = total + ((1 - c) ** 2 if i == j else objective.redundancy * c**2)
    return total


def vicreg(objective: VICReg, z1: Tensor, z2: Tensor) -> Tensor:
    """Bardes et al., eq. 1 to 6, scaled as in their code."""
    n, width = z1.shape
    total = objective.invariance * sum(((x - y) ** 2).sum() for x, y in zip(z1, z2, strict=True)) / n / width
    for z in (z1, z2):
        centred = z - sum(z) / n
        hinges = [(1 - (centred[:, j].square().sum() / (n - 1) + 1e-4).sqrt()).clamp(min=0) for j in range(width)]
        covariance = sum(torch.outer(row, row) for row in centred) / (n - 1)
        squares = sum(covariance[i, j] ** 2 for i in range(width) for j in range(width) if i != j)
        total = total + objective.variance * sum(hinges) / width / 2 + objective.covariance * squares / width
    return total


def cosine(p: Tensor, z: Tensor) -> Tensor:
    return ((p / p.norm(dim=1, keepdim=True)) * (z / z.norm(dim=1, keepdim=True))).sum(dim=1)


def simsiam(objective: SimSiam, z1: Tensor, z2: Tensor) -> Tensor:
    """Chen and He, algorithm 1; batch norm of the predictor over both views."""
    p1, p2 = objective.predictor(torch.cat([z1, z2])).chunk(2)
    return -cosine(p1, z2.detach()).mean() / 2 - cosine(p2, z1.detach()).mean() / 2


def byol(objective: BYOL, z1: Tensor, z2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """Grill et al., eq. 2 and what follows: squared distances of normalised vectors, both ways."""
    p1, p2 = (F.normalize(p, dim=1) for p in objective.predictor(torch.cat([z1, z2])).chunk(2))
    t1, t2 = F.normalize(t1, dim=1), F.normalize(t2, dim=1)
    return (p1 - t2).square().sum(1).mean() + (p2 - t1).square().sum(1).mean()


def moco(objective: MoCoV2, z1: Tensor, z2: Tensor) -> Tensor:
    """He et al., eq. 1, query by query; the views are the query's and the key's."""
    losses = []
    for q, k in zip(z1, z2, strict=True):
        q, k = q / q.norm(), k / k.norm()
        positive = torch.exp(q @ k / objective.temperature)
        negatives = sum(torch.exp(q @ other / objective.temperature) for other in objective.queue)
        losses.append(-torch.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


FORMULAS = {"BarlowTwins": barlow_twins, "VICReg": vicreg, "SimSiam": simsiam, "BYOL": byol, "MoCoV2": moco}


def made(name: str) -> Objective:
    torch.manual_seed(0)
    return build_objective(dict(type=name, **SPECS[name]), WIDTH).double()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Views ``(2, 8, 5)``, images further back larger; weights ``(5, 4)`` that project them; targets ``(2, 8, 4)``."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((2, 8, 5), (5, 4), (2, 8, 4))]
    draw[0] *= torch.linspace(0.3, 3, 8).view(1, 8, 1)
    return tuple(draw)


def arguments(objective: Objective, views: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    """What the learner passes: projections of the views that the encoder sees, and the target network's."""
    projections = (views[objective.views] @ weight).flatten(0, 1)
    return [projections] + ([] if objective.target_views is None else [targets[objective.target_views].flatten(0, 1)])


def expected(name: str) -> tuple[float, list[Tensor]]:
    """The formula's loss on the whole batch, and its gradients at the weight and the objective's parameters."""
    objective = made(name)
    views, weight, targets = inputs()
    weight.requires_grad_()
    rows = [x for part in arguments(objective, views, weight, targets) for x in part.split(8)]
    loss = FORMULAS[name](objective, *rows)
    return loss.item(), list(torch.autograd.grad(loss, [weight, *objective.parameters()]))


def found(name: str) -> tuple[float, list[Tensor], dict[str, Tensor]]:
    """Loss and gradients averaged over the processes, of which each has its share of the images; and the metrics."""
    objective, rank, share = made(name), comm.rank(), 8 // comm.world_size()
    if comm.world_size() > 1:
        objective = convert_batchnorm(objective)
    views, weight, targets = inputs()
    weight.requires_grad_()
    mine = slice(rank * share, (rank + 1) * share)
    loss, metrics = objective(*arguments(objective, views[:, mine], weight, targets[:, mine]))
    gradients = torch.autograd.grad(loss, [weight, *objective.parameters()])
    averages = [comm.average(gradient) for gradient in gradients]
    return comm.average(loss.detach()).item(), averages, metrics | dict(objective.named_buffers())


def all_found() -> dict[str, tuple]:
    return {name: found(name) for name in SPECS}


@pytest.mark.parametrize("name", SPECS)
def test_loss_and_gradient_equal_the_formula(name):
    loss, gradients, _ = found(name)
    reference, expected_gradients = expected(name)
    assert loss == pytest.approx(reference, rel=1e-10)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_give_the_global_loss_and_gradient(tmp_path, world_size):
    """Images, and so statistics, differ from process to process; metrics and the queue are the global ones in each."""
    for of_process in run_in_processes(all_found, world_size, tmp_path):
        for name in SPECS:
            loss, gradients, values = of_process[name]
            reference, expected_gradients = expected(name)
            assert loss == pytest.approx(reference, rel=1e-10), name
            for gradient, other in zip(gradients, expected_gradients, strict=True):
                torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
            for key, value in found(name)[2].items():
                if key != "accuracy":  # of the local rows, averaged by the learner
                    torch.testing.assert_close(values[key], value, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", ["BarlowTwins", "VICReg", "SimSiam", "BYOL", "MoCoV2"])
def test_losses_are_float32_under_autocast(name):
    """bfloat16 projections lose digits; what is computed of them does not."""
    objective, (views, weight, targets) = made(name).float(), inputs()
    parts = [part.bfloat16() for part in arguments(objective, views, weight, targets)]
    if hasattr(objective, "predictor"):
        objective.predictor = nn.Identity()  # a part of the network, which autocast may run in bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = copy.deepcopy(objective)(*parts)
    assert loss.dtype == torch.float32
    assert loss.item() == copy.deepcopy(objective)(*(part.float() for part in parts))[0].item()


def test_lightly_agrees():
    """With its classes of these names; of BYOL, MoCo and SimSiam it has the loss without predictor and target."""
    lightly = pytest.importorskip("lightly.loss")
    z1, z2, t1, t2 = torch.randn(4, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    both, targets = torch.cat([z1, z2]), torch.cat([t1, t2])
    assert BarlowTwins(0.01)(both)[0].item() == pytest.approx(lightly.BarlowTwinsLoss(0.01)(z1, z2).item(), rel=1e-6)
    assert VICReg()(both)[0].item() == pytest.approx(lightly.VICRegLoss()(z1, z2).item(), rel=1e-6)
    simsiam, byol, cosine = SimSiam(8), BYOL(8), lightly.NegativeCosineSimilarity()
    simsiam.predictor = byol.predictor = nn.Identity()
    assert simsiam(both)[0].item() == pytest.approx(cosine(z1, z2).item(), rel=1e-6)
    expected = 4 + 2 * (cosine(z1, t2) + cosine(z2, t1)).item()
    assert byol(both, targets)[0].item() == pytest.approx(expected, rel=1e-6)
    moco, theirs = MoCoV2(8, queue_size=32).double(), lightly.NTXentLoss(0.2, memory_bank_size=(32, 8)).double()
    for _ in range(4):  # both begin with random keys; after two batches of 16 they have the same
        loss, expected = moco(z1, z2)[0].item(), theirs(z1.clone().requires_grad_(), z2).item()
    assert loss == pytest.approx(expected, rel=1e-6)


def learner_of(name: str, rule="gim", **options) -> LocalContrastiveLearner:
    """A small learner in float64, whose heads have a convolution."""
    torch.manual_seed(0)
    objective = dict(type=name, **SPECS.get(name, {}))
    head = dict(conv_blocks=1, hidden_channels=6, out_channels=WIDTH)
    learner = LocalContrastiveLearner(dict(type="resnet18", stem="small", width=4), rule, head, objective, total_steps=10,
                                      **options).double()
    learner.normalise = lambda images: (images.double() - learner.mean) / learner.std
    return learner


def views() -> Tensor:
    return torch.randint(0, 256, (6, 2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("recompute", ["none", pytest.param("block", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["NTXent", *SPECS])
def test_gradients_reach_exactly_the_units(name, rule, recompute):
    """Each unit on its own, with a graph in its blocks, its head and its objective alone."""
    learner = learner_of(name, RULES[rule], recompute=recompute)
    reference = copy.deepcopy(learner)
    reference.normalise = learner.normalise
    logs = learner.backward(views())
    targets = reference._targets(views())
    images = learner.normalise(views()[:, reference.objectives[0].views].transpose(0, 1).flatten(0, 1))
    for index, (unit, unit_name) in enumerate(zip(reference.units, reference.unit_names, strict=True)):
        with torch.no_grad():
            x = reference.encoder.run(images, 0, unit.start)
        head, objective = reference.heads[index], reference.objectives[index]
        loss, _ = objective(head(reference.encoder.run(x, unit.start, unit.end)), *targets[index])
        assert logs[f"loss_{unit_name}"].item() == pytest.approx(loss.item(), rel=1e-9)
        own = [*reference.encoder.parameters_of(unit.start, unit.end), *head.parameters(), *objective.parameters()]
        loss.backward(inputs=own)
    for (key, found), other in zip(learner.named_parameters(), reference.parameters(), strict=True):
        assert (found.grad is None) == (other.grad is None) == key.startswith("target."), key
        if other.grad is not None:
            torch.testing.assert_close(found.grad, other.grad, rtol=1e-6, atol=1e-10, msg=lambda m, k=key: f"{k}: {m}")


def test_weights_scale_the_units_losses():
    """Gradients of GIM's units, which share nothing, by their weights; losses are logged as they are, their sum weighted."""
    plain, weighted = learner_of("VICReg"), learner_of("VICReg", weights=[1, 0.5, 0, 2])
    expected, logs = plain.backward(views()), weighted.backward(views())
    losses = [expected[f"loss_{unit}"] for unit in plain.unit_names]
    assert [logs[f"loss_{unit}"] for unit in plain.unit_names] == losses
    assert logs["loss"].item() == pytest.approx((losses[0] + 0.5 * losses[1] + 2 * losses[3]).item(), rel=1e-12)
    for unit, weight in zip(plain.units, weighted.weights, strict=True):
        for found, other in zip(weighted.encoder.parameters_of(unit.start, unit.end),
                                plain.encoder.parameters_of(unit.start, unit.end), strict=True):
            torch.testing.assert_close(found.grad, weight * other.grad, rtol=1e-12, atol=0)
    for weights in ([1, 2], [1, 1, -1, 1], [1, 1, 1, math.inf]):
        with pytest.raises(ValueError, match="4 finite numbers"):
            learner_of("VICReg", weights=weights)


def test_momentum_rises_by_half_a_cosine():
    """BYOL, section 3.3: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2."""
    objective = BYOL(4, momentum=0.996)
    found = [objective.target_momentum(k, 1000) for k in (0, 250, 500, 1000)]
    assert found == pytest.approx([0.996, 0.996 + 0.004 * (1 - 0.5**0.5) / 2, 0.998, 1.0], rel=1e-12)
    assert MoCoV2(4, queue_size=8).target_momentum(500, None) == 0.999
    with pytest.raises(ValueError, match="total_steps"):
        objective.target_momentum(0, None)


@pytest.mark.parametrize("name", ["BYOL", "MoCoV2"])
def test_the_target_follows_after_every_step(name):
    """It begins as what the network is at the first step, and sees every later step's weights once; one for all units."""
    learner = learner_of(name, "loco")
    optimizer = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1))
    forwards = []
    learner.target.encoder.conv1.register_forward_hook(lambda *_: forwards.append("conv1"))
    learner.target.encoder.layer4[1].register_forward_hook(lambda *_: forwards.append("layer4"))
    with torch.no_grad():
        learner.encoder.conv1.weight.mul_(2)  # as weights that are loaded into the encoder
    expected = learner.encoder.conv1.weight.detach().clone()
    for step in range(4):
        if step:
            tau = learner.objectives[0].target_momentum(step - 1, 10)
            expected = tau * expected + (1 - tau) * learner.encoder.conv1.weight.detach()
        learner.train_step({"views": views()}, optimizer)
        torch.testing.assert_close(learner.target.encoder.conv1.weight.detach(), expected, rtol=1e-12, atol=1e-14)
    assert forwards == ["conv1", "layer4"] * 4
    assert learner.target.steps.item() == 4
    assert all(not p.requires_grad for p in learner.target.parameters())


def test_the_queue_holds_the_latest_keys_in_turn():
    """After three batches of 4 in a queue of 6; the loss is of the keys from before."""
    objective = MoCoV2(3, queue_size=6).double()
    keys = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for batch in keys.split(4):
        before = copy.deepcopy(objective)
        loss, _ = objective(batch.clone().requires_grad_(), batch)
        assert loss.item() == pytest.approx(moco(before, batch, batch).item(), rel=1e-10)
        loss.backward()  # the queue may not have changed under its feet
    torch.testing.assert_close(objective.queue, F.normalize(keys[[6, 7, 8, 9, 10, 11]], dim=1))
    assert objective.oldest.item() == 0
    objective(keys[:1], keys[:1])
    torch.testing.assert_close(objective.queue, F.normalize(keys[[0, 7, 8, 9, 10, 11]], dim=1))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: BarlowTwins()(torch.randn(4, 3)), "at least 3"),
    (lambda: VICReg()(torch.randn(2, 3)), "at least 2"),
    (lambda: VICReg()(torch.randn(5, 3)), "5 projections"),
    (lambda: MoCoV2(3, queue_size=4)(torch.randn(5, 3), torch.randn(5, 3)), "queue_size of MoCoV2 is 4.*5 images"),
    (lambda: BarlowTwins(-1), "redundancy of BarlowTwins is -1"),
    (lambda: BYOL(3, momentum=1.5), "momentum of BYOL is 1.5"),
    (lambda: MoCoV2(3, temperature=0), "temperature of MoCoV2 is 0"),
    (lambda: build_objective(dict(type="BYOL", momentun=0.9), 4), "did you mean 'momentum'"),
    (lambda: build_objective(dict(type="BYOL", width=3), 4), "unknown option 'width'"),
    (lambda: build_objective("SimSiam"), "'SimSiam' needs to know the dimension"),
    (lambda: learner_of("BYOL", "loco", soft_sharing=dict(coefficient=0.1)), "soft_sharing cannot.*BYOL.*BarlowTwins"),
    (lambda: DataParallelLearner(learner_of("MoCoV2"), sync_batchnorm=False), "MoCo v2 needs sync_batchnorm=True"),
    (lambda: learner_of("MoCoV2").train_only(0), "one after the other with MoCo v2.*BarlowTwins"),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_soft_sharing_and_units_in_turn_with_objectives_without_a_target():
    """Predictors are parts of their units."""
    learner = learner_of("SimSiam", "loco", soft_sharing=dict(coefficient=0.1))
    learner.backward(views())
    assert all(p.grad is not None for p in learner.parameters())
    learner = learner_of("SimSiam", "gim")
    learner.train_only(1)
    learner.backward(views())
    assert [any(p.grad is not None for p in each.parameters()) for each in learner.objectives] == [False, True, False, False]


def test_heads_are_the_papers_and_single_options_override_them():
    with torch.device("meta"):
        for name, widths in {"BarlowTwins": (64, 8192, 8192, 8192), "VICReg": (64, 8192, 8192, 8192),
                             "SimSiam": (64, 2048, 2048, 2048), "BYOL": (64, 4096, 256), "MoCoV2": (64, 64, 128),
                             "NTXent": (64, 64, 128)}.items():
            learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "loco", dict(conv_blocks=1), name)
            head = learner.heads[-1]
            linear = [layer for layer in head.mlp if isinstance(layer, nn.Linear)]
            assert (linear[0].in_features, *(layer.out_features for layer in linear)) == widths, name
            assert len(head.convs) == 1
            norms = sum(isinstance(layer, nn.BatchNorm1d) for layer in head.mlp)
            assert norms == {"SimSiam": 3, "MoCoV2": 0}.get(name, len(linear) - 1), name
        narrow = LocalContrastiveLearner(dict(type="resnet18", width=8), "gim", dict(out_channels=32), "BYOL")
    assert [layer.out_features for layer in narrow.objectives[0].predictor if isinstance(layer, nn.Linear)] == [4096, 32]
    assert narrow.heads[0].mlp[0].out_features == 4096
