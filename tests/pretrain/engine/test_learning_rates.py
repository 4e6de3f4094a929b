"""Learning rates by batch size, and the schedule of the ImageNet configs as a Runner carries it out."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from pretrain.engine import optimizers  # noqa: F401  registers LARS
from pretrain.engine.learning_rates import check_schedule, resolve_lr, scaled_lr
from tests.conftest import ROOT

BASE = ROOT / "configs/_base_/pretrain_imagenet.py"
ITERATIONS = 3  # an epoch


def test_rules_meet_at_the_paper_s_batch_size():
    """4.8 at 4096 by both; half the batch halves one and divides the other by the root of 2 (SimCLR, appendix B.1)."""
    assert scaled_lr(0.3, 4096, "linear") == pytest.approx(4.8) == scaled_lr(0.075, 4096, "sqrt")
    assert scaled_lr(0.3, 2048, "linear") == pytest.approx(2.4)
    assert scaled_lr(0.075, 2048, "sqrt") == pytest.approx(4.8 / math.sqrt(2))


@pytest.mark.parametrize(("arguments", "message"), [
    ((0.3, 4096, "cubic"), "unknown rule of lr_scaling 'cubic'; known are linear, sqrt"),
    ((0.0, 4096, "linear"), "base_lr is 0.0"), ((0.3, 0, "linear"), "global batch size is 0"),
])
def test_bad_scaling_is_refused(arguments, message):
    """The message names the value."""
    with pytest.raises(ValueError, match=message):
        scaled_lr(*arguments)


def test_resolve_lr_replaces_the_rule_by_its_rate():
    """Of a copy; a config that has a rate keeps it."""
    config = dict(type="OptimWrapper", lr_scaling=dict(rule="linear", base_lr=0.3), optimizer=dict(type="LARS", eps=0))
    assert resolve_lr(config, 512) == dict(type="OptimWrapper", optimizer=dict(type="LARS", eps=0, lr=0.6))
    assert "lr_scaling" in config and "lr" not in config["optimizer"]
    fixed = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
    assert resolve_lr(fixed, 512) == fixed == resolve_lr(dict(fixed, lr_scaling=None), 512)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(lr_scaling=dict(rule="linear", base_lr=0.3)), "both optimizer.lr=0.1 and lr_scaling"),
    (dict(optimizer=dict(type="SGD")), "no learning rate"),
    (dict(optimizer=dict(type="SGD"), lr_scaling=dict(rule="linear")), "must be dict"),
    (dict(optimizer=dict(type="SGD"), lr_scaling=dict(rule="linear", base_lr=0.3, by=2)), "must be dict"),
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


def test_scaling_that_is_no_dict_is_refused():
    """Not with an AttributeError."""
    with pytest.raises(ValueError, match=r"lr_scaling is 'linear'; it must be dict\(rule"):
        resolve_lr(dict(optimizer=dict(type="SGD"), lr_scaling="linear"), 256)
