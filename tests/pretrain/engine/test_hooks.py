"""What a run logs, and how it stops: corrupt images, errors of one process, and numbers that are not finite."""

from __future__ import annotations

import faulthandler
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.distributed import comm
from pretrain.engine.checkpoints import checkpoint_files, load_checkpoint, partial_path
from pretrain.engine.hooks import NonFiniteLossError
from pretrain.errors import RunFailedError
from pretrain.run import pretrain, use_data_root
from tests.conftest import ROOT
from tests.pretrain.processes import run_in_processes

pytestmark = pytest.mark.repository

UNITS = ["res2", "res3", "res4", "res5"]
OVERRIDES = {
    "train_cfg.max_epochs": 3, "train_dataloader.batch_size": 4, "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False, "train_dataloader.dataset.views.size": 32,
    "model.encoder.width": 8, "default_hooks.logger.interval": 1,
}


@HOOKS.register_module()
class SpoilHook(Hook):
    """Lets the first process's checkpoint fail: its weights become infinite, or where it is written stands a folder."""

    def __init__(self, cause: str) -> None:
        self.cause = cause

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if comm.rank() > 0 or not self.end_of_epoch(runner.train_dataloader, batch_idx):
            return
        if self.cause == "weights":
            next(runner.model.parameters()).data.fill_(float("inf"))
        else:
            partial_path(Path(runner.work_dir) / "epoch_1.pth").mkdir()


def errors_of_runs(images: Path, work_dirs: Path, hooks_of_runs: list[list[dict]]) -> list[tuple[str, bool, str]]:
    """This process's error in one epoch with each list of hooks: type, whether the tools report it in a line, text."""
    faulthandler.dump_traceback_later(120, exit=True)  # where this process waits for the other without end
    return [error_of_run(images, work_dirs / str(index), hooks) for index, hooks in enumerate(hooks_of_runs)]


def error_of_run(images: Path, work_dir: Path, hooks: list[dict]) -> tuple[str, bool, str]:
    config = Config.fromfile(str(ROOT / "configs/pretrain/simclr_resnet18_demo.py"), import_custom_modules=False)
    config.merge_from_dict({
        "train_dataloader.batch_size": 4, "train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": False,
        "train_dataloader.dataset.views.size": 16, "model.encoder.width": 8, "work_dir": str(work_dir),
        "experiment_name": str(work_dir),
    })
    config.custom_hooks = hooks
    use_data_root(config, str(images))
    try:
        pretrain(config, launcher="pytorch")
    except Exception as error:
        return type(error).__name__, isinstance(error, RunFailedError), str(error)
    raise AssertionError("the run has not failed")


@pytest.mark.slow
def test_corrupt_images_of_all_processes_are_put_together(image_folder, tmp_path):
    """Each of two processes meets one broken image of eight, and a share of 1.5 of 8 is tolerated: both stop, both count 2.

    The log of the first process names the second's image, too.
    """
    files = sorted(image_folder.rglob("*.png"))
    order = np.random.default_rng([0, 0]).permutation(len(files))  # the first epoch's; even places are the first process's
    broken = [files[order[0]], files[order[1]]]
    for file in broken:
        file.write_bytes(b"")
    hooks = [dict(type="CorruptImagesHook", max_share=1.5 / 8)]
    (first,), (second,) = run_in_processes(errors_of_runs, 2, tmp_path, image_folder, tmp_path / "runs", [hooks])
    assert first == second
    assert first[:2] == ("RunFailedError", True)
    assert first[2].startswith("2 of 8 images are corrupt, more than the tolerated share of 0.1875")
    (log,) = (tmp_path / "runs" / "0").glob("*/*.log")
    assert all(f"{file} cannot be decoded" in log.read_text() for file in broken)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_saved_stops_all_processes(image_folder, tmp_path):
    """Only the first one saves and meets the error: weights that are refused, a file that cannot be opened."""
    hooks = [[dict(type="SpoilHook", cause=cause)] for cause in ("weights", "file")]
    first, second = run_in_processes(errors_of_runs, 2, tmp_path, image_folder, tmp_path / "runs", hooks)
    assert first[0][:2] == ("NonFiniteLossError", True) and "not finite after iteration 2" in first[0][2]
    assert first[1][0] != "RunFailedError" and ".epoch_1.pth.partial" in first[1][2]
    assert second == [("RunFailedError", True, text) for _, _, text in first]


def run(image_folder, work_dir, *more_hooks: dict):
    """Three epochs of two iterations, every iteration logged; returns the last checkpoint."""
    config = Config.fromfile(str(ROOT / "configs/pretrain/loco_resnet18_demo.py"), import_custom_modules=False)
    config.merge_from_dict({**OVERRIDES, "work_dir": str(work_dir), "experiment_name": str(work_dir)})
    config.custom_hooks = [*config.custom_hooks, *more_hooks]
    use_data_root(config, str(image_folder))
    return pretrain(config)


@pytest.mark.slow
def test_scalars_reach_log_file_json_and_tensorboard(image_folder, tmp_path):
    """Speed, memory, rate, each unit's loss and accuracy: the same values in JSON lines and event file."""
    run(image_folder, tmp_path)
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    names = {"lr", "loss", *(f"{kind}_{unit}" for kind in ("loss", "accuracy") for unit in UNITS)}
    speed = {"images_per_second", "memory_mib"}
    assert all(names <= record.keys() for record in records)
    assert all(speed <= record.keys() for record in records[1:])
    assert all(record["images_per_second"] > 0 and 1 < record["memory_mib"] < 2**20 for record in records[1:])
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
    assert all(f"{name}: " in line for name in ("lr", "images_per_second", "memory_mib", "loss_res5"))


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
    assert "newest checkpoints: epoch_1.pth. --resume repeats" in message
    assert [file.name for file in checkpoint_files(tmp_path)] == ["epoch_1.pth"]
    assert all(bool(tensor.isfinite().all()) for tensor in load_checkpoint(tmp_path / "epoch_1.pth")["state_dict"].values())


@pytest.mark.slow
def test_a_finite_checkpoint_of_no_use_is_not_the_only_one(image_folder, tmp_path, monkeypatch):
    """Finite weights that are far too large are saved before their loss is known: the checkpoint before is there, too."""
    monkeypatch.setitem(OVERRIDES, "default_hooks.checkpoint.interval_iters", 1)
    monkeypatch.setitem(OVERRIDES, "default_hooks.checkpoint.max_keep_ckpts", 1)
    poison = dict(type="PoisonHook", iteration=4, name="heads.1.mlp.0.weight", value="1e38")
    with pytest.raises(NonFiniteLossError, match=r"iteration 5, .*epoch_2.pth, epoch_1_iter_3.pth"):
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
    with pytest.raises(NonFiniteLossError, match="is not saved; newest checkpoints: none") as error:
        run(image_folder, tmp_path, dict(type="PoisonHook", iteration=2, name=name, value="inf"))
    assert part in str(error.value) and "after iteration 2" in str(error.value)
    assert checkpoint_files(tmp_path) == [] and not list(tmp_path.glob("*.pth"))
    assert error.value.exit_code == 1
