"""Pretraining through the tools: losses, resume bit for bit, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from pretrain.distributed import comm
from pretrain.engine.checkpoints import RECORD_KEY, load_checkpoint
from pretrain.engine.work_dir import config_fingerprint, init_work_dir
from pretrain.errors import RunFailedError
from pretrain.results.store import DETECTION, new_record, write_record
from pretrain.run import _identity, _resolve, per_rank_config, pretrain, use_data_root
from tests.conftest import ROOT, assert_one_line_error
from tests.pretrain.eval.written import identity_of_config
from tests.pretrain.processes import run_script

pytestmark = pytest.mark.repository

CONFIG = "configs/pretrain/loco_resnet18_demo.py"
SMALL = ["train_cfg.max_epochs=3", "train_dataloader.batch_size=4", "train_dataloader.dataset.views.size=32",
         "model.encoder.width=8"]


def options(folder, work_dir, *more):
    return ["--data-root", folder, "--work-dir", work_dir, *more, "--cfg-options", *SMALL]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, synthetic_root):
    """One undisturbed run of three epochs that kept every epoch's checkpoint."""
    work_dir = tmp_path_factory.mktemp("run") / "loco"
    arguments = [CONFIG, *options(synthetic_root / "unlabeled2017", work_dir)]
    finished = run_script("tools/pretrain.py", list(map(str, arguments)), work_dir.with_name("log"), {})
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
    """Weights, optimizer and schedule after a resume equal those of the undisturbed run to the last bit.

    The images may lie in another place by then, as on a cluster's local disks.
    """
    work_dir, images = tmp_path / "resumed", tmp_path / "moved" / "unlabeled2017"
    shutil.copytree(synthetic_root / "unlabeled2017", images)
    work_dir.mkdir()
    shutil.copy(finished_run / "run.json", work_dir)
    shutil.copy(finished_run / f"epoch_{epoch}.pth", work_dir)
    (work_dir / "last_checkpoint").write_text(str(work_dir / f"epoch_{epoch}.pth"))
    finished = run_tool("pretrain", CONFIG, *options(images, work_dir, "--resume"))
    assert finished.returncode == 0, finished.stderr
    expected, found = (load_checkpoint(folder / "epoch_3.pth") for folder in (finished_run, work_dir))
    assert expected["state_dict"].keys() == found["state_dict"].keys()
    for key, value in expected["state_dict"].items():
        assert torch.equal(value, found["state_dict"][key]), key
    for index, state in expected["optimizer"]["state"].items():
        assert torch.equal(state["exp_avg"], found["optimizer"]["state"][index]["exp_avg"])
    assert expected[RECORD_KEY]["iter"] == found[RECORD_KEY]["iter"]


def small_config(work_dir, images, **changes) -> Config:
    """The demo's LoCo on few images, with changes by dotted key."""
    config = Config.fromfile(ROOT / CONFIG, import_custom_modules=False)
    config.merge_from_dict({"train_dataloader.batch_size": 4, "model.encoder.width": 8,
                            "train_dataloader.dataset.views.size": 32,
                            "train_cfg.max_epochs": 3, **changes})
    config.work_dir = str(work_dir)
    use_data_root(config, str(images))
    return config


@pytest.mark.slow
def test_other_images_than_before_are_noticed_at_resume(finished_run, tmp_path, synthetic_root):
    """An epoch of another length has another place for every image, and another schedule."""
    images = tmp_path / "unlabeled2017"
    shutil.copytree(synthetic_root / "unlabeled2017", images)
    next(file for file in images.iterdir() if file.is_file()).unlink()
    for name in ("run.json", "epoch_1.pth"):
        shutil.copy(finished_run / name, tmp_path)
    with pytest.raises(ValueError, match=r"holds 11 images, but .*epoch_1.pth was trained on 12"):
        pretrain(small_config(tmp_path, images), resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim_wrapper.optimizer.type": "LARSS"}, "options of optim_wrapper do not fit"),
        ({"optim_wrapper.type": "AmpOptimWrapper"}, "optim"),
        ({"optim_wrapper.accumulative_counts": 4}, "accumulative_counts is 4"),
        ({"model.autocast": "float16"}, "float16 needs LossScalingOptimWrapper"),
        ({"model.encoder.type": "resnet19"}, "unknown encoder 'resnet19'"),
        ({"model.rule.type": "locco"}, "unknown learning rule 'locco'"),
        ({"model.rule": [(0, 9)]}, "0,9"),
        ({"param_scheduler.0.tempo": 2}, "options of param_scheduler do not fit"),
        ({"train_dataloader.dataset.views.colour_strength": 0.5}, "options of train_dataloader do not fit.*colour_strength"),
        ({"train_dataloader.dataset.views.size": 4}, "view size is 4"),
        ({"train_dataloader.batch_size": 1}, "batch_size is 1"),
        ({"train_dataloader.batch_size": 64}, "holds 8 images, fewer than a batch of 64"),
        ({"train_cfg.max_epochs": 0}, "max_epochs is 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_directory_is_claimed(changes, message, tmp_path, image_folder):
    """So that the fixed command may use it."""
    with pytest.raises(ValueError, match=message):
        pretrain(small_config(tmp_path / "w", image_folder, **changes))
    assert not (tmp_path / "w" / "run.json").exists()


def test_a_directory_without_a_checkpoint_is_free(tmp_path, image_folder):
    """A run that failed in its first steps does not stand in the way of its fixed config."""
    work_dir = tmp_path / "w"
    for temperature, epochs in ((0.0001, 1), (0.2, 1)):
        config = small_config(work_dir, image_folder, **{"model.objective.temperature": temperature,
                                                         "train_cfg.max_epochs": epochs, "param_scheduler": None})
        if temperature < 0.01:
            init_work_dir(work_dir, config.to_dict(), {})  # as a run does that is killed before its first checkpoint
    assert pretrain(config) == work_dir / "epoch_1.pth"
    assert json.loads((work_dir / "run.json").read_text())["config"]["model"]["objective"]["temperature"] == 0.2


def test_a_directory_of_a_detection_experiment_is_refused(tmp_path, image_folder):
    """Its record stays as it is."""
    write_record(tmp_path / "run.json", new_record(DETECTION, identity_of_config("pretrain/loco_resnet18_demo.py"),
                                                   {"name": DETECTION}))
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match="holds a run of detection; choose another --work-dir"):
        pretrain(small_config(tmp_path, image_folder))
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.slow
def test_a_record_that_was_not_finished_is_finished_at_resume(finished_run, tmp_path, synthetic_root):
    """Of a run that was killed after its last checkpoint."""
    work_dir = tmp_path / "w"
    shutil.copytree(finished_run, work_dir)
    whole = json.loads((work_dir / "run.json").read_text())
    assert len(whole["rows"]) == 8
    (work_dir / "run.json").write_text(json.dumps({**whole, "rows": [], "duration_s": None}))
    last = pretrain(small_config(work_dir, synthetic_root / "unlabeled2017"), resume=True)
    assert last == work_dir / "epoch_3.pth"
    found = json.loads((work_dir / "run.json").read_text())
    assert (found["rows"], found["duration_s"]) == (whole["rows"], None)


def test_a_drawn_seed_is_kept_at_resume(finished_run, tmp_path, synthetic_root, monkeypatch):
    """randomness.seed=None: the order of the images goes on where it was."""
    seeds = []
    monkeypatch.setattr(Runner, "train", lambda runner: seeds.append((runner.seed, runner.train_dataloader.sampler.seed)))
    content = load_checkpoint(finished_run / "epoch_1.pth")
    content["meta"]["seed"] = 12345
    config = small_config(tmp_path, synthetic_root / "unlabeled2017", randomness=dict(seed=None, _delete_=True))
    sha256, _ = config_fingerprint(_identity(_resolve(config, None, None)))
    content[RECORD_KEY]["config_sha256"] = sha256
    torch.save(content, tmp_path / "epoch_1.pth")
    pretrain(config, resume=True)
    assert seeds == [(12345, 12345)]


@pytest.mark.slow
def test_a_work_dir_belongs_to_one_config(finished_run, synthetic_root, run_tool):
    """Another config is refused with the differing key; the same one without --resume says what to do."""
    arguments = options(synthetic_root / "unlabeled2017", finished_run)
    assert_one_line_error(run_tool("pretrain", CONFIG, *arguments, "model.objective.temperature=0.5"),
                          "different config", "model.objective.temperature", "--work-dir")
    assert_one_line_error(run_tool("pretrain", CONFIG, *arguments), "already holds epoch_3.pth", "--resume")


@pytest.mark.slow
def test_export_of_a_real_checkpoint(finished_run, tmp_path, run_tool):
    """The record says rule, encoder and origin; a truncated checkpoint is named."""
    finished = run_tool("export_backbone", finished_run / "epoch_3.pth", tmp_path / "b.pth")
    assert finished.returncode == 0, finished.stderr
    record = json.loads(finished.stdout)
    run = json.loads((finished_run / "run.json").read_text())
    assert [record[part] for part in ("method", "setting", "repetition")] == [
        run[part] for part in ("method", "setting", "repetition")]
    assert (record["method"]["label"], record["repetition"], record["epoch"]) == ("LoCo", {"seed": 0}, 3)
    setting = record["setting"]
    assert (setting["encoder"], setting["batch_size"], setting["image_size"], setting["images"], setting["epochs"]) == (
        {"type": "resnet18", "stem": "stl", "width": 8}, 4, 32, 12, 3)
    assert len(record["config_sha256"]) == 64 and record["argv"][1:] == [
        str(finished_run / "epoch_3.pth"), str(tmp_path / "b.pth")]
    (tmp_path / "cut.pth").write_bytes((finished_run / "epoch_3.pth").read_bytes()[:5000])
    assert_one_line_error(run_tool("export_backbone", tmp_path / "cut.pth", tmp_path / "c.pth"), "cut.pth", "truncated")


@pytest.mark.slow
def test_corrupt_images_are_reported_skipped_and_bounded(image_folder, tmp_path, run_tool):
    """Two broken files of ten: reported by path and skipped where 20% are tolerated, fatal where 1% is."""
    for name in ("broken.jpg", "empty.jpg"):
        (image_folder / name).write_bytes(b"\xff\xd8\xff not an image")
    arguments = ["--data-root", image_folder, "--cfg-options", *SMALL, "train_cfg.max_epochs=2"]
    tolerant = run_tool("pretrain", CONFIG, "--work-dir", tmp_path / "a", *arguments, "custom_hooks.0.max_share=0.2")
    assert tolerant.returncode == 0, tolerant.stderr
    assert f"skipped a corrupt image: {image_folder / 'broken.jpg'} cannot be decoded" in tolerant.stderr
    strict = run_tool("pretrain", CONFIG, "--work-dir", tmp_path / "b", *arguments)
    assert strict.returncode not in (0, 2)
    assert "2 of 10 images are corrupt, more than the tolerated share of 0.01" in strict.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["no/such.py"], ["no/such.py does not exist"]),
        ([CONFIG, "--data-root", "no/such/folder"], ["no/such/folder does not exist", "--data-root"]),
        ([CONFIG, "--launcher", "slurm"], ["launcher 'slurm'", "SLURM_PROCID"]),
        (["configs/mask_rcnn_loco_demo.py"], ["is not one for this tool"]),
    ],
)
def test_bad_input_is_one_line(arguments, parts, tmp_path, run_tool):
    """Exit code 2 and one line that names the value and the fix."""
    assert_one_line_error(run_tool("pretrain", *arguments, "--work-dir", tmp_path / "w"), *parts)


@pytest.mark.slow
def test_a_run_by_the_config_s_file(tmp_path, image_folder):
    """The library call has the tool's options; a second process at work in the directory is refused."""
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = [{str(ROOT / CONFIG)!r}]\nmodel = dict(encoder=dict(width=8))\nmax_epochs = 1\n"
                      "train_cfg = dict(max_epochs=1)\nparam_scheduler = None\n"
                      "train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, "
                      "dataset=dict(views=dict(size=32)))\n")
    last = pretrain(config, work_dir=tmp_path / "w", data_root=image_folder)
    assert last == tmp_path / "w" / "epoch_1.pth"
    assert last == pretrain(str(config), work_dir=tmp_path / "w", resume=True, data_root=image_folder)
    holder = ("import sys; from pretrain.engine.claim import claim_run\n"
              "with claim_run(sys.argv[1]): print(flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path / "w")], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(RunFailedError, match=f"process {process.pid}"):
            pretrain(config, work_dir=tmp_path / "w", resume=True, data_root=image_folder)
        process.communicate("\n")


def losses_of(work_dir) -> list[float]:
    """Of every iteration that was logged."""
    (scalars,) = work_dir.glob("*/vis_data/scalars.json")
    return [json.loads(line)["loss"] for line in scalars.read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path, synthetic_root, run_tool):
    """Two processes share the batch: the logged losses are those of one, and so is the batch norm's mean."""
    small = ["optim_wrapper.optimizer._delete_=True", "optim_wrapper.optimizer.type=SGD", "optim_wrapper.optimizer.lr=0.001",
             "default_hooks.logger.interval=1", "log_processor.window_size=1", "train_dataloader.batch_size=12"]
    for name, processes in (("one", 1), ("two", 2)):
        finished = run_tool("pretrain", CONFIG, *options(synthetic_root / "unlabeled2017", tmp_path / name), *small,
                            processes=processes)
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
    monkeypatch.setattr(comm, "world_size", lambda: 8)
    share = per_rank_config(config)
    assert (share["train_dataloader"]["batch_size"], share["optim_wrapper"]["optimizer"]["lr"]) == (64, 0.6)
    assert share["model_wrapper_cfg"]["type"] == "DataParallelLearner"
    monkeypatch.setattr(comm, "world_size", lambda: 3)
    with pytest.raises(ValueError, match="batch_size is 512.*3 processes cannot share evenly"):
        per_rank_config(config)
