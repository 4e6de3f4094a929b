"""LARS against its paper's algorithm, groups, loss scaling, learning rates by batch size and the ImageNet schedule."""

from __future__ import annotations

import io
import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from torch import nn

from pretrain.engine.optimizers import (
    LARS,
    LossScalingOptimWrapper,
    check_no_accumulation,
    check_schedule,
    resolve_lr,
    scaled_lr,
    split_norm_and_bias,
)
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT

RATES = [0.5, 1.0, 4.8, 4.8, 2.0, 0.1]  # changes, as warm-up and cosine do
SHAPES = [(4, 3, 3, 3), (4,), (5, 4)]
BASE = ROOT / "configs/_base_/pretrain_imagenet.py"
ITERATIONS = 3  # an epoch of the runs here


def algorithm_1(w, gradients, rates, momentum, decay, trust, adapt):
    """You et al. 2017, algorithm 1 for one layer, in float64 and one line a line; local rate 1 where it is undefined."""
    w, v = w.double().clone(), torch.zeros_like(w, dtype=torch.float64)
    for g, rate in zip(gradients, rates, strict=True):
        g = g.double()
        w_norm, g_norm = float((w * w).sum()) ** 0.5, float((g * g).sum()) ** 0.5
        local = trust * w_norm / (g_norm + decay * w_norm) if adapt and w_norm > 0 and g_norm > 0 else 1.0
        v = momentum * v + rate * local * (g + decay * w)
        w = w - v
    return w


def gradients_for(shape, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0 ** (i - 2) for i in range(len(RATES))]


def optimise(parameters, gradients, groups, **options) -> LARS:
    optimizer = LARS(groups, lr=1.0, **options)
    for step, rate in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, series in zip(parameters, gradients, strict=True):
            parameter.grad = series[step].to(parameter.dtype)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("decay", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_equals_the_paper(decay, dtype, rtol):
    """Six steps at changing rates, an adapted and an unadapted group side by side; without decay it adapts all the same."""
    torch.manual_seed(0)
    starts = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]
    gradients = [gradients_for(shape, seed) for seed, shape in enumerate(SHAPES)]
    parameters = [nn.Parameter(start.to(dtype, copy=True)) for start in starts]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "adapt": False, "weight_decay": 0.01}]
    optimise(parameters, gradients, groups, weight_decay=decay, momentum=0.8, trust_coefficient=0.02, eps=0.0)
    for index, (start, series) in enumerate(zip(starts, gradients, strict=True)):
        adapt = index < 2
        expected = algorithm_1(start.to(dtype), series, RATES, 0.8, decay if adapt else 0.01, 0.02, adapt)
        torch.testing.assert_close(parameters[index].detach().double(), expected, rtol=rtol, atol=rtol)
        other = algorithm_1(start.to(dtype), series, RATES, 0.8, decay if adapt else 0.01, 0.02, not adapt)
        assert not torch.allclose(expected, other, rtol=1e-3)  # the comparison above tells adapted from unadapted


def test_unadapted_groups_are_sgd_at_a_constant_rate():
    """torch's SGD with momentum and decay is the same while the rate is constant, and another one when it changes."""
    torch.manual_seed(0)
    start = torch.randn(5, 4, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    lars = LARS([ours], lr=0.1, weight_decay=0.01, adapt=False)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01)
    for step, gradient in enumerate(gradients_for((5, 4), 0)):
        if step == 4:
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
            lars.param_groups[0]["lr"] = sgd.param_groups[0]["lr"] = 0.01
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        lars.step()
        sgd.step()
    assert not torch.allclose(ours, theirs)


def test_zero_norms_and_missing_gradients():
    """Where weight or gradient is zero the local rate is 1; a parameter without gradient stays, and so does its state."""
    zero_weight, zero_gradient, untouched = (nn.Parameter(torch.full((3,), value)) for value in (0.0, 2.0, 5.0))
    optimizer = LARS([zero_weight, zero_gradient, untouched], lr=0.5, weight_decay=0.1)
    zero_weight.grad, zero_gradient.grad = torch.ones(3), torch.zeros(3)
    optimizer.step()
    assert torch.equal(zero_weight.detach(), torch.full((3,), -0.5))
    torch.testing.assert_close(zero_gradient.detach(), torch.full((3,), 2.0 - 0.5 * 0.1 * 2.0))
    assert torch.equal(untouched.detach(), torch.full((3,), 5.0)) and untouched not in optimizer.state


def test_state_goes_on_after_weights_only_loading():
    """A second optimizer with the loaded state steps to the same bit."""
    torch.manual_seed(0)
    first = nn.Parameter(torch.randn(5, 4))
    gradients = [gradients_for((5, 4), 0)]
    optimizer = optimise([first], gradients, [{"params": [first], "adapt": False}], weight_decay=0.1)
    second = nn.Parameter(first.detach().clone())
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    resumed = LARS([second], lr=9.0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.param_groups[0]["adapt"] is False
    for parameter, used in ((first, optimizer), (second, resumed)):
        parameter.grad = torch.ones(5, 4)
        used.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize(("options", "message"), [
    (dict(lr=-1.0), "lr of LARS is -1.0"), (dict(lr=float("nan")), "lr of LARS is nan"),
    (dict(lr=1.0, weight_decay=-1e-6), "weight_decay of LARS"),
])
def test_bad_options_are_refused(options, message):
    """For the optimizer and for a single group."""
    with pytest.raises(ValueError, match=message):
        LARS([nn.Parameter(torch.ones(2))], **options)
    with pytest.raises(ValueError, match=message):
        LARS([{"params": [nn.Parameter(torch.ones(2))], **options}], lr=1.0)


WRAPPER = dict(type="OptimWrapper", constructor="ContrastiveOptimWrapperConstructor",
               optimizer=dict(type="LARS", lr=4.8, weight_decay=1e-6), paramwise_cfg=dict(exclude_norm_and_bias=True))


class Mixed(nn.Module):
    """One layer of each kind, a shared weight and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.tied = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.linear.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.attention = nn.MultiheadAttention(4, 1)  # in_proj_bias
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.GroupNorm(2, 4), nn.LayerNorm(4),
                                    nn.InstanceNorm2d(4, affine=True)])


def test_two_groups():
    """All norms and biases in the second group, undecayed and unadapted; every trainable parameter is in just one group."""
    model = Mixed()
    wrapper = build_optim_wrapper(model, WRAPPER)
    assert type(wrapper) is OptimWrapper and type(wrapper.optimizer) is LARS
    weights, excluded = wrapper.optimizer.param_groups
    assert (weights["weight_decay"], weights["adapt"]) == (1e-6, True)
    assert (excluded["weight_decay"], excluded["adapt"]) == (0.0, False)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in weights["params"]} == {"conv.weight", "linear.weight", "attention.in_proj_weight",
                                                     "attention.out_proj.weight"}
    assert {names[p] for p in excluded["params"]} == {
        "conv.bias", "linear.bias", "tied.bias", "attention.in_proj_bias", "attention.out_proj.bias",
        *(f"norms.{index}.{kind}" for index in range(5) for kind in ("weight", "bias")),
    }


def test_every_one_dimensional_parameter_of_a_learner_is_excluded():
    """Encoder and heads have no vector but norms and biases, and no matrix or kernel that is one."""
    weights, excluded = split_norm_and_bias(LocalContrastiveLearner("resnet18", "loco"))
    assert {p.dim() for p in weights} == {2, 4} and {p.dim() for p in excluded} == {1}


@pytest.mark.parametrize("options", [None, {}, {"exclude_norm": 1}, {"exclude_norm_and_bias": True, "norm_decay_mult": 0}])
def test_options_of_the_constructor_are_explicit(options):
    """Missing and unknown ones are refused, and so is a learning rate that nobody has resolved."""
    with pytest.raises(ValueError, match=r"dict\(exclude_norm_and_bias=True\)"):
        build_optim_wrapper(nn.Linear(2, 2), dict(WRAPPER, paramwise_cfg=options))
    with pytest.raises(ValueError, match="resolve_lr"):
        build_optim_wrapper(nn.Linear(2, 2), dict(WRAPPER, lr_scaling=dict(rule="linear", base_lr=0.3)))


def scaling_wrapper(parameter: nn.Parameter, **options) -> LossScalingOptimWrapper:
    config = dict(type="LossScalingOptimWrapper", optimizer=dict(type="SGD", lr=0.5), init_scale=1024.0, **options)
    return build_optim_wrapper(nn.ParameterList([parameter]), config)


def test_loss_scaling_skips_steps_with_infinite_gradients():
    """The step is that of the unscaled loss; after an infinite gradient nothing has moved, and half the scale works."""
    parameter = nn.Parameter(torch.tensor([3.0]))
    wrapper = scaling_wrapper(parameter)
    wrapper.scale((parameter**2).sum()).backward()
    assert parameter.grad.item() == 6 * 1024
    wrapper.step()
    assert parameter.item() == 0 and wrapper.loss_scale == 1024
    parameter.grad = torch.tensor([float("inf")])
    wrapper.step()
    assert parameter.item() == 0 and wrapper.loss_scale == 512
    wrapper.zero_grad()
    wrapper.update_params((parameter - 1).square().sum())  # mmengine's own way
    assert parameter.item() == 1 and wrapper.loss_scale == 512


def test_gradients_are_clipped_after_unscaling():
    """The norm of 6 is clipped to 2, not that of 6144."""
    parameter = nn.Parameter(torch.tensor([3.0]))
    wrapper = scaling_wrapper(parameter, clip_grad=dict(max_norm=2.0))
    wrapper.update_params((parameter**2).sum())
    assert parameter.item() == pytest.approx(3 - 0.5 * 2, rel=1e-5)


def test_loss_scaling_resumes():
    """Scale and momentum come back from a file loaded with weights_only; the loaded dict stays whole."""
    first, second = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([3.0]))
    wrapper = build_optim_wrapper(nn.ParameterList([first]), dict(type="LossScalingOptimWrapper", init_scale=64.0,
                                                                  growth_interval=2, optimizer=dict(type="LARS", lr=0.5)))
    for _ in range(3):
        wrapper.update_params((first**2).sum())
    assert wrapper.loss_scale == 128
    buffer = io.BytesIO()
    torch.save(wrapper.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    resumed = LossScalingOptimWrapper(optimizer=LARS([second], lr=9.0), growth_interval=7)
    resumed.load_state_dict(state)
    assert "loss_scaler" in state and resumed.loss_scale == 128
    with torch.no_grad():
        second.copy_(first)
    for parameter, used in ((first, wrapper), (second, resumed)):
        used.update_params((parameter**2).sum())
        assert used.loss_scale == 256  # the count of good steps came along
    assert torch.equal(first, second)
    state.pop("loss_scaler")
    fresh = LossScalingOptimWrapper(optimizer=LARS([second], lr=9.0))
    fresh.load_state_dict(state)
    assert fresh.loss_scale == 2**16 and fresh.optimizer.param_groups[0]["lr"] == 0.5


def test_accumulation_is_refused_with_the_ways_out():
    """One step a batch passes."""
    check_no_accumulation(WRAPPER)
    check_no_accumulation(dict(WRAPPER, accumulative_counts=1))
    with pytest.raises(ValueError, match="accumulative_counts is 4"):
        check_no_accumulation(dict(WRAPPER, accumulative_counts=4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_step_equals_the_paper_and_never_waits_for_the_device():
    """Synchronising calls raise; the result is algorithm 1's."""
    start, series = torch.randn(SHAPES[0], dtype=torch.float64), gradients_for(SHAPES[0], 0)
    parameter = nn.Parameter(start.cuda())
    on_device = [gradient.cuda() for gradient in series]
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimise([parameter], [on_device], [parameter], weight_decay=0.1, eps=0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = algorithm_1(start, series, RATES, 0.9, 0.1, 0.001, True)
    torch.testing.assert_close(parameter.detach().cpu(), expected, rtol=1e-10, atol=1e-12)


def test_rules_meet_at_the_paper_s_batch_size():
    """4.8 at 4096 by both; half the batch halves one and divides the other by the root of 2 (SimCLR, appendix B.1)."""
    assert scaled_lr(0.3, 4096, "linear") == pytest.approx(4.8) == scaled_lr(0.075, 4096, "sqrt")
    assert scaled_lr(0.3, 2048, "linear") == pytest.approx(2.4)
    assert scaled_lr(0.075, 2048, "sqrt") == pytest.approx(4.8 / math.sqrt(2))


def test_resolve_lr_replaces_the_rule_by_its_rate():
    """Of a copy; a config that has a rate keeps it."""
    config = dict(type="OptimWrapper", lr_scaling=dict(rule="linear", base_lr=0.3), optimizer=dict(type="LARS", eps=0))
    assert resolve_lr(config, 512) == dict(type="OptimWrapper", optimizer=dict(type="LARS", eps=0, lr=0.6))
    assert "lr_scaling" in config and "lr" not in config["optimizer"]
    fixed = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
    assert resolve_lr(fixed, 512) == fixed == resolve_lr(dict(fixed, lr_scaling=None), 512)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(lr_scaling=dict(rule="linear", base_lr=0.3)), "optimizer.lr=0.1 and lr_scaling"),
    (dict(optimizer=dict(type="SGD")), "optimizer.lr=None and lr_scaling=None"),
    (dict(optimizer=dict(type="SGD"), lr_scaling=dict(rule="linear")), "must be dict"),
    (dict(optimizer=dict(type="SGD"), lr_scaling="linear"), "must be dict"),
    (dict(optimizer=dict(type="SGD"), lr_scaling=dict(rule="cubic", base_lr=0.3)), "unknown rule of lr_scaling 'cubic'"),
])
def test_ambiguous_rates_are_refused(changes, message):
    """Both, neither, or options that the rule does not have."""
    with pytest.raises(ValueError, match=message):
        resolve_lr(dict(optimizer=dict(type="SGD", lr=0.1), **changes) if "optimizer" not in changes else changes, 256)


class Affine(BaseModel):
    """The least that LARS's two groups need."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x, mode="loss"):
        return {"loss": self.linear(x).square().sum()}


class Recorder(Hook):
    """Learning rates of the groups that each step is made with."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.rates.append([*runner.optim_wrapper.get_lr()["lr"], *runner.optim_wrapper.get_lr()["base_lr"]])


def rates_of_a_run(work_dir, max_epochs: int) -> torch.Tensor:
    """``(iterations, 3)``: of both groups and of mmengine's own record, in a run of the base config's optimizer."""
    config = Config.fromfile(str(BASE), import_custom_modules=False)
    runner = Runner(
        Affine(), str(work_dir), experiment_name=str(work_dir), log_level="ERROR",
        train_dataloader=dict(batch_size=1, dataset=[torch.ones(1)] * ITERATIONS, sampler=dict(type="DefaultSampler")),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=resolve_lr(config.optim_wrapper.to_dict(), config.train_dataloader.batch_size),
        param_scheduler=[spec.to_dict() for spec in config.param_scheduler],
        default_hooks=dict(checkpoint=None, logger=None, timer=None, sampler_seed=None),
    )
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    return torch.tensor(recorder.rates, dtype=torch.float64)


@pytest.mark.parametrize("max_epochs", [20, 100])
def test_schedule_is_the_closed_form(max_epochs, tmp_path):
    """A line from 0 to 4.8 over 10 epochs and a cosine to 0 at the end, a step at a time, for any number of epochs."""
    rates = rates_of_a_run(tmp_path, max_epochs)
    warm, total = 10 * ITERATIONS, max_epochs * ITERATIONS
    line = [4.8 * (1e-6 + (1 - 1e-6) * step / (warm - 1)) for step in range(warm)]
    cosine = [4.8 * 0.5 * (1 + math.cos(math.pi * step / (total - warm))) for step in range(total - warm)]
    expected = torch.tensor([*line, *cosine], dtype=torch.float64)
    for group in rates.T:
        torch.testing.assert_close(group, expected, rtol=1e-9, atol=0)
    assert rates[0, 0] < 1e-5 and rates[-1, 0] < 4.8 * (math.pi / (total - warm)) ** 2


def test_schedules_that_do_not_fit_the_run_are_refused():
    """The base config's cosine begins after 10 epochs, so 10 are too few; an end of its own must be that of the run."""
    scheduler = Config.fromfile(str(BASE), import_custom_modules=False).param_scheduler
    check_schedule(scheduler, 11)
    with pytest.raises(ValueError, match=r"CosineAnnealingLR \(param_scheduler.1\) begins after epoch 10.*max_epochs is 10; "
                                         r".*param_scheduler.0.end and param_scheduler.1.begin"):
        check_schedule(scheduler, 10)
    own_end = [dict(scheduler[0]), dict(scheduler[1], end=100)]
    check_schedule(own_end, 100)
    for epochs in (90, 110):  # cut while the rate is high, or trained on at a rate of nothing
        with pytest.raises(ValueError, match=rf"param_scheduler.1\) ends with epoch 100, but .*max_epochs is {epochs}"):
            check_schedule(own_end, epochs)
    check_schedule(None, 1)
    with pytest.raises(ValueError, match="max_epochs is 0; at least 1"):
        check_schedule(None, 0)
