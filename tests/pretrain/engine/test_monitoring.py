"""What a run logs about its speed, and that it stops, with good checkpoints behind it, when its numbers are no numbers."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.engine import monitoring
from pretrain.engine.checkpoints import checkpoint_files, load_checkpoint
from pretrain.engine.monitoring import NonFiniteLossError, ThroughputHook, peak_memory_mib
from pretrain.run import pretrain, use_data_root
from tests.conftest import ROOT

UNITS = ["res2", "res3", "res4", "res5"]
OVERRIDES = {
    "train_cfg.max_epochs": 3, "train_dataloader.batch_size": 4, "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False, "train_dataloader.dataset.views.size": 32,
    "model.encoder.width": 8, "default_hooks.logger.interval": 1,
}


def run(image_folder, work_dir, *more_hooks: dict):
    """Three epochs of two iterations, every iteration logged; returns the last checkpoint."""
    config = Config.fromfile(str(ROOT / "configs/pretrain/loco_resnet18_demo.py"), import_custom_modules=False)
    config.merge_from_dict({**OVERRIDES, "work_dir": str(work_dir), "experiment_name": str(work_dir)})
    config.custom_hooks = [*config.custom_hooks, *more_hooks]
    use_data_root(config, str(image_folder))
    return pretrain(config)


@pytest.mark.slow
def test_scalars_reach_log_file_json_and_tensorboard(image_folder, tmp_path):
    """Speed, waiting, memory, rate, each unit's loss and accuracy: the same values in JSON lines and event file."""
    run(image_folder, tmp_path)
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    names = {"lr", "loss", *(f"{kind}_{unit}" for kind in ("loss", "accuracy") for unit in UNITS)}
    speed = {"images_per_second", "data_wait", "memory_mib"}
    assert all(names <= record.keys() for record in records)
    assert all(speed <= record.keys() for record in records[1:])
    assert all(record["images_per_second"] > 0 and 0 <= record["data_wait"] <= 1 for record in records[1:])
    assert len({record["lr"] for record in records}) > 1  # the schedule's, not the config's
    assert records[-1]["images_per_second"] < 1.5 * 4 / min(record["time"] for record in records)

    (events,) = tmp_path.glob("*/vis_data/events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    for name in names | speed:
        logged = {event.step: event.value for event in accumulator.Scalars(name)}
        expected = {record["step"]: record[name] for record in records if name in record}
        assert logged == pytest.approx(expected, rel=1e-5), name

    (log,) = tmp_path.glob("*/*.log")
    line = [line for line in log.read_text().splitlines() if "Epoch(train)" in line][-1]
    assert all(f"{name}: " in line for name in ("lr", "images_per_second", "data_wait", "memory_mib", "loss_res5"))


@pytest.mark.slow
def test_lines_are_means_over_their_iterations(image_folder, tmp_path, monkeypatch):
    """Of losses, accuracies and kept shares, with a line every two iterations against one an iteration."""
    monkeypatch.setitem(OVERRIDES, "model.objective.threshold", 0.3)
    logged = {}
    for interval in (1, 2):
        monkeypatch.setitem(OVERRIDES, "default_hooks.logger.interval", interval)
        monkeypatch.setitem(OVERRIDES, "log_processor.window_size", interval)
        run(image_folder, tmp_path / str(interval))
        (scalars,) = (tmp_path / str(interval)).glob("*/vis_data/scalars.json")
        logged[interval] = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [record["step"] for record in logged[2]] == [2, 4, 6]
    names = [f"{kind}_{unit}" for kind in ("loss", "accuracy", "kept_positive", "kept_negative") for unit in UNITS]
    assert len({record["kept_positive_res2"] for record in logged[1]}) > 1
    for first, second, both in zip(logged[1][::2], logged[1][1::2], logged[2], strict=True):
        for name in names:
            assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-5), name


class Run:
    """What the throughput hook uses of a runner."""

    def __init__(self, name: str) -> None:
        self.message_hub = MessageHub.get_instance(name)


def test_throughput_is_images_over_time_without_checkpoints(monkeypatch, request):
    """By a clock that is told: mean over the last two iterations; what happens between iterations does not count."""
    now = 100.0
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: now)
    runner, hook = Run(request.node.name), ThroughputHook(window=2)
    batch = {"views": torch.zeros(8, 2, 3, 4, 4, dtype=torch.uint8)}
    hook.before_train_epoch(runner)
    for waiting, computing, saving in ((50.0, 50.0, 1000.0), (1.0, 1.0, 1000.0), (1.0, 5.0, 0.0)):
        now += waiting
        hook.before_train_iter(runner, 0, batch)
        now += computing
        hook.after_train_iter(runner, 0, batch, {})
        now += saving
        hook.between_train_iters(runner)
    assert runner.message_hub.get_scalar("train/images_per_second").current() == pytest.approx(2 * 8 / 8)
    assert runner.message_hub.get_scalar("train/data_wait").current() == pytest.approx(2 / 8)
    assert runner.message_hub.get_scalar("train/memory_mib").current() > 0
    with pytest.raises(ValueError, match="window of ThroughputHook is 0"):
        ThroughputHook(window=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA its memory is reported")
def test_peak_memory_is_in_mib():
    """Touching 64 MiB raises the peak to at least that, and a process of torch takes no terabyte."""
    assert bool(torch.ones(64 * 2**20, dtype=torch.uint8).all())
    assert 64 < peak_memory_mib() < 2**20


@HOOKS.register_module()
class PoisonHook(Hook):
    """Makes a value of the learner's or the optimizer's infinite or NaN, after all that an iteration does."""

    priority = "LOWEST"

    def __init__(self, iteration: int, name: str, value: str) -> None:
        self.iteration, self.name, self.value = iteration, name, float(value)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.iteration and self.name.startswith("exp_avg_sq"):
            next(iter(runner.optim_wrapper.optimizer.state.values()))["exp_avg_sq"].fill_(self.value)
        elif runner.iter + 1 == self.iteration:
            runner.model.state_dict()[self.name].view(-1)[0] = self.value


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_the_run(value, image_folder, tmp_path):
    """The lowest unit concerned, place, learning rate, last good checkpoint and ways on; that checkpoint is finite."""
    poison = dict(type="PoisonHook", iteration=3, name="heads.1.mlp.0.weight", value=value)
    with pytest.raises(NonFiniteLossError) as error:
        run(image_folder, tmp_path, poison)
    message = str(error.value)
    assert message.startswith("the loss of res3 is nan in epoch 2, iteration 4, at learning rate ")
    rate = float(message.split("learning rate ")[1].split(";")[0])
    assert 0 < rate <= 4e-3
    assert f"the newest intact checkpoint is {tmp_path / 'epoch_1.pth'}, but from there --resume repeats" in message
    assert "unless the machine was the cause, lower the learning rate" in message
    assert [file.name for file in checkpoint_files(tmp_path)] == ["epoch_1.pth"]
    assert all(bool(tensor.isfinite().all()) for tensor in load_checkpoint(tmp_path / "epoch_1.pth")["state_dict"].values())


@pytest.mark.slow
def test_a_finite_checkpoint_of_no_use_is_not_the_only_one(image_folder, tmp_path, monkeypatch):
    """Finite weights that are far too large are saved before their loss is known: the checkpoint before is there, too."""
    monkeypatch.setitem(OVERRIDES, "default_hooks.checkpoint.interval_iters", 1)
    monkeypatch.setitem(OVERRIDES, "default_hooks.checkpoint.max_keep_ckpts", 1)
    poison = dict(type="PoisonHook", iteration=4, name="heads.1.mlp.0.weight", value="1e38")
    with pytest.raises(NonFiniteLossError, match=r"iteration 5, .*epoch_2.pth \(the one before it is epoch_1_iter_3.pth\)"):
        run(image_folder, tmp_path, poison)
    bad, good = (load_checkpoint(file)["state_dict"] for file in checkpoint_files(tmp_path))
    name = poison["name"]
    assert bad[name].isfinite().all() and bad[name].abs().max() > 1e37 and good[name].abs().max() < 10


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [
    ("encoder.layer3.0.bn1.running_var", "encoder.layer3.0.bn1.running_var of the checkpoint's state_dict"),
    ("exp_avg_sq", "exp_avg_sq of the checkpoint's optimizer"),
])
def test_what_is_not_finite_is_not_saved(name, part, image_folder, tmp_path):
    """Losses of the epoch were finite, but batch norm statistics or Adam's state have overflowed in its last iteration."""
    with pytest.raises(NonFiniteLossError, match="is not saved; there is no intact checkpoint .*; lower the") as error:
        run(image_folder, tmp_path, dict(type="PoisonHook", iteration=2, name=name, value="inf"))
    assert part in str(error.value) and "after iteration 2" in str(error.value)
    assert checkpoint_files(tmp_path) == [] and not list(tmp_path.glob("*.pth"))
    assert error.value.exit_code == 1
