"""Pretraining through the tools: losses, resume bit for bit, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from pretrain import distributed
from pretrain.checkpoints import RECORD_KEY, load_checkpoint
from pretrain.run import share_of_process
from tests.conftest import ROOT, assert_one_line_error

CONFIG = "configs/pretrain/loco_resnet18_demo.py"
SMALL = ["train_cfg.max_epochs=3", "train_dataloader.batch_size=4", "train_dataloader.dataset.views.size=32"]


def options(folder, work_dir, *more):
    return ["--data-root", folder, "--work-dir", work_dir, *more, "--cfg-options", *SMALL]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, synthetic_root):
    """One undisturbed run of three epochs that kept every epoch's checkpoint."""
    work_dir = tmp_path_factory.mktemp("run") / "loco"
    command = [sys.executable, "tools/pretrain.py", CONFIG, *options(synthetic_root / "unlabeled2017", work_dir)]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == str(work_dir / "epoch_3.pth")
    return work_dir


@pytest.mark.slow
def test_every_unit_is_logged_with_loss_and_accuracy(finished_run):
    """One loss and one contrastive accuracy a unit, and their sum."""
    (scalars,) = finished_run.glob("*/vis_data/scalars.json")
    record = json.loads(scalars.read_text().splitlines()[-1])
    units = ["res2", "res3", "res4", "res5"]
    assert record["loss"] == pytest.approx(sum(record[f"loss_{unit}"] for unit in units), rel=1e-4)
    assert all(0 <= record[f"accuracy_{unit}"] <= 1 for unit in units)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
def test_resume_from_any_epoch_is_bit_exact(finished_run, tmp_path, synthetic_root, run_tool, epoch):
    """Weights, optimizer and schedule after a resume equal those of the undisturbed run to the last bit."""
    work_dir = tmp_path / "resumed"
    work_dir.mkdir()
    shutil.copy(finished_run / "run.json", work_dir)
    shutil.copy(finished_run / f"epoch_{epoch}.pth", work_dir)
    (work_dir / "last_checkpoint").write_text(str(work_dir / f"epoch_{epoch}.pth"))
    finished = run_tool("pretrain", CONFIG, *options(synthetic_root / "unlabeled2017", work_dir, "--resume"))
    assert finished.returncode == 0, finished.stderr
    expected, found = (load_checkpoint(folder / "epoch_3.pth") for folder in (finished_run, work_dir))
    assert expected["state_dict"].keys() == found["state_dict"].keys()
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), key
    for index, state in expected["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg"], found["optimizer"]["state"][index]["exp_avg"])
    assert expected[RECORD_KEY]["iter"] == found[RECORD_KEY]["iter"]


@pytest.mark.slow
def test_a_work_dir_belongs_to_one_config(finished_run, synthetic_root, run_tool):
    """Another config is refused with the differing key; the same one without --resume is told what to do."""
    arguments = options(synthetic_root / "unlabeled2017", finished_run)
    assert_one_line_error(run_tool("pretrain", CONFIG, *arguments, "model.temperature=0.5"),
                          "different config", "model.temperature", "--work-dir")
    assert_one_line_error(run_tool("pretrain", CONFIG, *arguments), "already holds epoch_3.pth", "--resume")


@pytest.mark.slow
def test_export_of_a_real_checkpoint(finished_run, tmp_path, run_tool):
    """The record says rule, encoder and origin; a truncated checkpoint is named."""
    finished = run_tool("export_backbone", finished_run / "epoch_3.pth", tmp_path / "b.pth")
    assert finished.returncode == 0, finished.stderr
    record = json.loads(finished.stdout)
    assert (record["rule"], record["encoder"], record["epoch"]) == ({"type": "loco"}, {"type": "resnet18"}, 3)
    assert len(record["config_sha256"]) == 64
    (tmp_path / "cut.pth").write_bytes((finished_run / "epoch_3.pth").read_bytes()[:5000])
    assert_one_line_error(run_tool("export_backbone", tmp_path / "cut.pth", tmp_path / "c.pth"), "cut.pth", "truncated")


@pytest.mark.slow
def test_undecodable_images_are_reported_skipped_and_bounded(image_folder, tmp_path, run_tool):
    """One broken file of nine: reported by path and skipped where 20% are tolerated, fatal where 1% is."""
    (image_folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not an image")
    arguments = ["--data-root", image_folder, "--cfg-options", *SMALL, "train_cfg.max_epochs=1"]
    tolerant = run_tool("pretrain", CONFIG, "--work-dir", tmp_path / "a", *arguments, "custom_hooks.0.max_share=0.2")
    assert tolerant.returncode == 0, tolerant.stderr
    assert f"cannot be decoded: {image_folder / 'broken.jpg'} (1 of 9 so far)" in tolerant.stderr
    strict = run_tool("pretrain", CONFIG, "--work-dir", tmp_path / "b", *arguments)
    assert strict.returncode not in (0, 2)
    assert "1 of 9 images cannot be decoded, more than the tolerated share of 0.01" in strict.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["no/such.py"], ["no/such.py does not exist"]),
        ([CONFIG, "--data-root", "no/such/folder"], ["no/such/folder does not exist", "--data-root"]),
        ([CONFIG, "--cfg-options", "model.rule.type=locco"], ["unknown learning rule 'locco'", "gim, loco, sharing"]),
        ([CONFIG, "--cfg-options", "model.rule=[(0,9)]"], ["[0,9) reaches past the encoder's end", "8 blocks"]),
        ([CONFIG, "--cfg-options", "model.rule=5"], ["learning rule 5 is neither a name nor a list"]),
        ([CONFIG, "--cfg-options", "train_dataloader.dataset.views.size=4"], ["view size is 4"]),
        ([CONFIG], ["holds 8 images, fewer than a batch of 64"]),
        ([CONFIG, "--cfg-options", "train_dataloader.batch_size=1"], ["batch_size is 1", "at least 2 images"]),
        ([CONFIG, "--cfg-options", "optim_wrapper.accumulative_counts=4"], ["accumulative_counts", "negatives"]),
        ([CONFIG, "--launcher", "slurm"], ["launcher 'slurm'", "SLURM_PROCID"]),
        (["configs/mask_rcnn_loco_demo.py"], ["is not one for this tool"]),
        ([CONFIG, "--cfg-options", "model.encoder.type=resnet19"], ["unknown encoder 'resnet19'", "resnet18"]),
    ],
)
def test_bad_input_is_one_line(arguments, parts, tmp_path, image_folder, run_tool):
    """Exit code 2 and one line that names the value and the mend."""
    if "--data-root" not in arguments:
        arguments = [arguments[0], "--data-root", image_folder, *arguments[1:]]
    if "--cfg-options" in arguments and not any("batch_size" in str(argument) for argument in arguments):
        arguments.append("train_dataloader.batch_size=4")
    assert_one_line_error(run_tool("pretrain", *arguments, "--work-dir", tmp_path / "w"), *parts)
    assert not (tmp_path / "w" / "run.json").exists()  # the mended command may use the same directory


def losses_of(work_dir) -> list[float]:
    """Of every iteration that was logged."""
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line)["loss"] for line in scalars.read_text().splitlines()]


@pytest.mark.slow
def test_torchrun_computes_what_one_process_does(tmp_path, synthetic_root):
    """Two processes share the batch: the logged losses are the single process's, and so is the batch norm's mean."""
    small = ["optim_wrapper.optimizer._delete_=True", "optim_wrapper.optimizer.type=SGD", "optim_wrapper.optimizer.lr=0.001",
             "default_hooks.logger.interval=1", "log_processor.window_size=1", "train_dataloader.batch_size=12"]
    for name, launcher in (("one", []), ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])):
        command = [sys.executable, *launcher, "tools/pretrain.py", CONFIG,
                   *options(synthetic_root / "unlabeled2017", tmp_path / name), *small]
        finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.strip() == str(tmp_path / name / "epoch_3.pth")  # one process speaks
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=2e-3)
    one, two = (load_checkpoint(tmp_path / name / "epoch_3.pth")["state_dict"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    torch.testing.assert_close(one["encoder.bn1.running_mean"], two["encoder.bn1.running_mean"], rtol=1e-3, atol=1e-3)


def test_processes_share_the_batch_and_its_learning_rate(monkeypatch):
    """The rate is that of the global batch; a batch that cannot be shared is refused with the numbers."""
    config = dict(train_dataloader=dict(batch_size=512), train_cfg=dict(max_epochs=2), param_scheduler=[],
                  optim_wrapper=dict(optimizer=dict(type="SGD"), lr_scaling=dict(rule="linear", base_lr=0.3)))
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    share = share_of_process(config)
    assert (share["train_dataloader"]["batch_size"], share["optim_wrapper"]["optimizer"]["lr"]) == (64, 0.6)
    assert share["model_wrapper_cfg"]["type"] == "DataParallelLearner"
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    with pytest.raises(ValueError, match="batch_size is 512.*3 processes cannot share evenly"):
        share_of_process(config)
