"""Several gloo processes against one process with the whole batch, on data that differ from process to process."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

import tests.pretrain.custom_method  # noqa: F401  (registers an objective and a rule)
from pretrain.distributed import comm
from pretrain.distributed.comm import GradientAverager
from pretrain.distributed.data_parallel import DataParallelLearner
from pretrain.distributed.sync_batchnorm import CrossProcessBatchNorm, convert_batchnorm, global_statistics
from pretrain.learner import LocalContrastiveLearner
from pretrain.local.recompute import RecomputeRule
from tests.pretrain.processes import run_in_processes

STEPS = 3
SMALL = dict(conv_blocks=1, hidden_channels=16, out_channels=8)
CASES = {
    "simclr": dict(rule="simclr"),
    "gim": dict(rule="gim"),
    "loco": dict(rule="loco", head=dict(conv_blocks=1)),
    "loco, norms made again": dict(rule="loco", recompute="norm"),
    "loco, stages run again": dict(rule="loco", recompute="stage"),
    "simclr, blocks run again": dict(rule="simclr", recompute="block"),
    "upper gradient": dict(rule="upper_gradient"),
    "soft sharing": dict(rule="loco", soft_sharing=dict(coefficient=0.1)),
    "a user's objective with a parameter": dict(rule="halves", objective="LearnedScale"),
    "Barlow Twins": dict(rule="loco", objective="BarlowTwins", head=SMALL, weights=[1, 2, 0.5, 1]),
    "VICReg": dict(rule="gim", objective="VICReg", head=SMALL),
    "SimSiam": dict(rule="loco", objective="SimSiam", head=SMALL),
    "BYOL": dict(rule="loco", objective="BYOL", head=SMALL, total_steps=3),
    "MoCo v2": dict(rule="gim", objective=dict(type="MoCoV2", queue_size=36), head=SMALL),
    "subsampling": dict(rule="loco", objective=dict(type="NTXent", temperature=0.5, threshold=0.3, average_over="kept")),
}


def batches(batch_size: int) -> list[torch.Tensor]:
    """Views ``(N, 2, 3, 16, 16)``; images further back in the batch are brighter, so that no two shares are alike."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.2, 1, batch_size).view(-1, 1, 1, 1, 1)
    return [(torch.randint(0, 256, (batch_size, 2, 3, 16, 16), generator=generator) * ramp).byte() for _ in range(STEPS)]


def train(options: dict, batch_size: int, train_alone: bool = False) -> dict:
    """A few float64 steps with this process's share of every batch; losses, and the last step's gradients and weights."""
    rank, world_size = comm.rank(), comm.world_size()
    torch.manual_seed(rank)  # only the first process's weights may count
    options = {"objective": dict(type="NTXent", temperature=0.5), **options}
    learner = LocalContrastiveLearner(dict(type="resnet18", stem="small", width=8), **options).double()
    learner.normalise = lambda images: ((images.double() - learner.mean) / learner.std)
    model = DataParallelLearner(learner) if world_size > 1 else learner
    model.train()
    optimizer = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.05, momentum=0.9))
    served, serve = [], RecomputeRule.serve
    RecomputeRule.serve = lambda rule: served.append(rule) or serve(rule)
    losses = []
    for step, views in enumerate(batches(batch_size)):
        if train_alone:
            learner.train_only(step)
        logs = model.train_step({"views": views[rank::world_size]}, optimizer)
        losses.append({name: value.item() for name, value in logs.items()})
    RecomputeRule.serve = serve
    gradients = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return {"losses": losses, "gradients": gradients, "state": learner.state_dict(),
            "rules": len(served)}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_equal_one_process(tmp_path, world_size):
    """Losses, accuracies, gradients, weights and batch norm buffers of 2 x 6 and 4 x 3 images are those of 1 x 12."""
    names = list(CASES) if world_size == 2 else ["loco", "soft sharing"]
    found = run_in_processes(train_all, world_size, tmp_path, names)
    for name in names:
        expected = train(CASES[name], 12)
        for rank, of_process in enumerate(found):
            assert_equal_runs(of_process[name], expected, f"{name}, rank {rank}")


def train_all(names: list[str]) -> dict[str, dict]:
    return {name: train(CASES[name], 12) for name in names}


@pytest.mark.slow
def test_units_trained_one_after_the_other(tmp_path):
    """When other units are trained from one step to the next, processes agree anew on what they send."""
    expected = train(dict(rule="gim"), 8, train_alone=True)
    for of_process in run_in_processes(train, 2, tmp_path, dict(rule="gim"), 8, True):
        assert_equal_runs(of_process, expected, "gim alone")


def assert_equal_runs(found: dict, expected: dict, what: str) -> None:
    assert found["rules"] == expected["rules"], what  # a synchronised batch norm saves as much memory
    for mine, theirs in zip(found["losses"], expected["losses"], strict=True):
        for name, value in theirs.items():  # accuracies are counted in float32
            assert mine[name] == pytest.approx(value, rel=1e-6 if "accuracy" in name else 1e-10), f"{what}: {name}"
    for part in ("gradients", "state"):
        assert found[part].keys() == expected[part].keys(), what
        for key, value in expected[part].items():
            if key.endswith(".queue"):  # keys are dealt to the processes in turn, and stand in the order of these
                value, found[part][key] = (rows[rows[:, 0].argsort()] for rows in (value, found[part][key]))
            message = f"{what}: {part} of {key}"
            torch.testing.assert_close(found[part][key], value, rtol=1e-7, atol=1e-10, msg=lambda m, n=message: f"{n}: {m}")


def normalise_twice(x: torch.Tensor, weights: torch.Tensor, shares: list[int], affine: bool) -> dict:
    """Two training passes and one in eval mode of a batch norm over this process's rows, and a loss on the second."""
    rank = comm.rank()
    start = sum(shares[:rank])
    rows = x[start : start + shares[rank]].clone().requires_grad_()
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(x.shape[1], affine=affine, momentum=0.3).double()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    if comm.world_size() > 1:
        norm = convert_batchnorm(norm)
        assert isinstance(norm, CrossProcessBatchNorm)
    norm(rows * 2)
    out = norm(rows)
    (out.sin() * weights[start : start + shares[rank]]).sum().backward(retain_graph=True)
    first = rows.grad.clone()
    (out.sin() * weights[start : start + shares[rank]]).sum().backward()
    torch.testing.assert_close(rows.grad, 2 * first)
    parameters = [p.grad / 2 for p in norm.parameters()]
    return {"out": out.detach(), "grad": first, "parameters": parameters, "buffers": dict(norm.named_buffers()),
            "eval": norm.eval()(rows).detach()}


@pytest.mark.slow
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_over_processes_equals_one_process(tmp_path, affine):
    """Output, gradients (twice through one graph) and running statistics, with shares of 1, 4 and 2 rows."""
    generator = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(7, 3, 4, 5, dtype=torch.float64, generator=generator) * torch.arange(1, 8).view(-1, 1, 1, 1)
    weights = torch.randn(7, 3, 4, 5, dtype=torch.float64, generator=generator)
    found = run_in_processes(normalise_twice, 3, tmp_path, x, weights, [1, 4, 2], affine)
    expected = normalise_twice(x, weights, [7], affine)
    for key in ("out", "grad", "eval"):
        torch.testing.assert_close(torch.cat([f[key] for f in found]), expected[key], rtol=1e-9, atol=1e-9)
    for index, grad in enumerate(expected["parameters"]):
        torch.testing.assert_close(sum(f["parameters"][index] for f in found), grad, rtol=1e-9, atol=1e-9)
    for f in found:
        for name, buffer in expected["buffers"].items():
            torch.testing.assert_close(f["buffers"][name], buffer, rtol=1e-9, atol=1e-12)


def statistics(shift: float) -> list[torch.Tensor]:
    x = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(comm.rank())) + shift
    return [x, *global_statistics(x)]


@pytest.mark.slow
def test_variance_of_values_far_from_zero_does_not_cancel(tmp_path):
    """In float32 the mean of squares of values about 10,000 knows nothing of a variance of 1."""
    found = run_in_processes(statistics, 2, tmp_path, 1e4)
    everything = torch.cat([f[0] for f in found]).double()
    var, mean = torch.var_mean(everything, [0, 2], correction=0)
    torch.testing.assert_close(found[0][2].double(), var, rtol=1e-3, atol=0)
    torch.testing.assert_close(found[0][1].double(), mean, rtol=1e-6, atol=0)
    assert found[0][3] == 48


def average_in_another_order() -> list[torch.Tensor]:
    """Processes get their gradients in opposite orders, one group without any; all but the first step overlap."""
    rank = comm.rank()
    layers = [nn.Parameter(torch.zeros(size)) for size in (3, 5, 2)]
    averager = GradientAverager([[layers[0]], [layers[1]], [layers[2]]])
    for step in range(3):
        for p in layers:
            p.grad = None
        for index in (0, 1) if rank == 0 else (1, 0):
            (layers[index].sum() * (1 + rank + index + step)).backward()
        averager.finish()
    return [p.grad for p in layers]


@pytest.mark.slow
def test_gradients_that_arrive_in_different_orders_are_sent_in_one(tmp_path):
    """Without an order of its own, the second process would average the second layer with the first."""
    for grads in run_in_processes(average_in_another_order, 2, tmp_path):
        torch.testing.assert_close(grads[0], torch.full((3,), 3.5))
        torch.testing.assert_close(grads[1], torch.full((5,), 4.5))
        assert grads[2] is None


def test_batch_norms_that_do_more_are_refused():
    """timm's batch norm with an activation inside would silently lose it."""
    timm_norm = pytest.importorskip("timm.layers").BatchNormAct2d(4)
    with pytest.raises(ValueError, match="BatchNormAct2d cannot be synchronised by CrossProcessBatchNorm"):
        convert_batchnorm(nn.Sequential(timm_norm))
