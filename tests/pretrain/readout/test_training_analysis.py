"""Kept pairs from training logs, and the memory of a step, of checkpoints and of configs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

import pytest
import torch
from mmengine.config import Config

from pretrain.checkpoints import RECORD_KEY
from pretrain.complexity import unit_macs
from pretrain.encoders import build_encoder
from pretrain.local_units import build_units
from pretrain.memory import step_cost
from pretrain.readout.analysis_files import analysis_file
from pretrain.readout.arguments import add_analysis_arguments, run_analyses
from pretrain.readout.step_costs import count_step, numbers_kept, recorded_step
from pretrain.readout.training_analysis import analyze_kept, analyze_memory
from pretrain.record import pretraining_record
from tests.conftest import ROOT
from tests.pretrain.readout.drawn import write_class_folders
from tests.pretrain.test_decoupled import CIFAR10_MEMORY, LARGEST_BLOCK_MACS

SHORT = "pretrain/subsampling/k4_subsampled_resnet18_cifar10_short.py"
UNITS = ["res2", "res3", "res4", "res5"]


def write_checkpoint(folder, epoch: int = 2, config: str = SHORT, **changes):
    """A checkpoint of a config whose encoder nobody has trained."""
    plain = Config.fromfile(str(ROOT / "configs" / config), import_custom_modules=False).to_dict()
    record = {**pretraining_record(plain, "0" * 64), "seed": 0, "epoch": epoch, "iter": 4 * epoch, **changes}
    weights = {f"encoder.{key}": value for key, value in build_encoder(record["encoder"]).state_dict().items()}
    torch.save({"state_dict": weights, RECORD_KEY: record}, folder / f"epoch_{epoch}.pth")
    return folder / f"epoch_{epoch}.pth"


def write_log(work_dir, units=UNITS, alone=False):
    """A log of two epochs of four iterations, every second one logged; shares tell iteration and unit.

    Where units are trained ``alone``, the first is in the first epoch and the second in the second.
    """
    file = work_dir / "20260101_000000" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    lines = []
    for iteration in (2, 4, 6, 8):
        shares = {f"kept_{pairs}_{unit}": 1 / (10 * iteration + index) / (1 + (pairs == "negative"))
                  for index, unit in enumerate(units) for pairs in ("positive", "negative")
                  if not alone or index == (iteration > 4)}
        lines.append(json.dumps(dict(loss=1.0, iter=iteration, epoch=(iteration + 3) // 4, **shares)))
    file.write_text("\n".join(lines))


def test_kept_pairs_are_those_of_the_log(tmp_path):
    """Every unit's shares at every record, and their means over the last epoch."""
    write_log(tmp_path)
    record = analyze_kept(str(write_checkpoint(tmp_path)))
    assert json.loads((tmp_path / "epoch_2.readout" / "analysis_kept.json").read_text()) == json.loads(json.dumps(record))
    assert (record["kind"], record["method"]) == ("analysis_kept", "decoupled, K = 4, T = 0")
    assert (record["units"], record["iterations"], record["epochs"]) == (UNITS, [2, 4, 6, 8], [0.5, 1, 1.5, 2])
    assert record["kept_positive"]["res3"] == [1 / 21, 1 / 41, 1 / 61, 1 / 81]
    assert record["kept_negative"]["res2"] == [1 / 40, 1 / 80, 1 / 120, 1 / 160]
    assert record["last_epoch"]["res2"] == pytest.approx(dict(kept_positive=(1 / 60 + 1 / 80) / 2,
                                                              kept_negative=(1 / 120 + 1 / 160) / 2))


def test_an_early_checkpoint_knows_nothing_of_later_epochs(tmp_path):
    """What was logged after it is left out, of the last epoch's means, too."""
    write_log(tmp_path)
    record = analyze_kept(str(write_checkpoint(tmp_path, epoch=1)))
    assert record["iterations"] == [2, 4]
    assert record["last_epoch"]["res2"]["kept_positive"] == pytest.approx((1 / 20 + 1 / 40) / 2)


def test_units_that_are_trained_one_after_the_other_have_epochs_of_their_own(tmp_path):
    """No share where a unit was not trained; one whose turn comes after the checkpoint is not among the units."""
    write_log(tmp_path, units=UNITS[:2], alone=True)
    record = analyze_kept(str(write_checkpoint(tmp_path)))
    assert record["kept_positive"] == dict(res2=[1 / 20, 1 / 40, None, None], res3=[None, None, 1 / 61, 1 / 81])
    assert record["last_epoch"]["res2"]["kept_positive"] == pytest.approx((1 / 20 + 1 / 40) / 2)
    assert analyze_kept(str(write_checkpoint(tmp_path, epoch=1)))["units"] == ["res2"]


def test_a_pretraining_without_subsampling_kept_all(tmp_path):
    """The message says what to train; and without a log, where it is looked for."""
    checkpoint = write_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"epoch_2.pth, but .* has no training log .*; an exported backbone has none"):
        analyze_kept(str(checkpoint))
    write_log(tmp_path, units=())
    with pytest.raises(ValueError, match=r"logged no kept pairs .*pretrain with a threshold, as configs/pretrain/"):
        analyze_kept(str(checkpoint))
    assert not list(tmp_path.rglob("analysis_*.json"))


def test_memory_is_that_of_the_recorded_step(tmp_path):
    """Encoder, units, projectors, loss, batch and views of the record, with Adam's two moments; the same of its config."""
    record = analyze_memory(str(write_checkpoint(tmp_path)))
    config = Config.fromfile(str(ROOT / "configs" / SHORT), import_custom_modules=False)
    encoder = config.model.encoder.to_dict()
    model = dict(rule=config.model.rule.to_dict(), decoder=config.model.decoder.to_dict(),
                 subsampling=config.model.subsampling.to_dict())
    cost = step_cost(encoder, model, 2 * 256, 32)
    assert (record["batch_size"], record["image_size"], record["precision"]) == (256, 32, "float32")
    assert {**asdict(cost), "optimizer_bytes": 2 * cost.optimizer_bytes}.items() <= record.items()
    counted = count_step(recorded_step(record["encoder"]["meta"]))
    assert counted.optimizer_bytes == counted.cost.optimizer_bytes == record["optimizer_bytes"]  # one number of one meaning
    assert record["peak_bytes"] == record["parameter_bytes"] + record["gradient_bytes"] + record["activation_bytes"]
    built = build_encoder(encoder)
    macs = unit_macs(built, build_units(model["rule"], built.stages), 32)
    assert record["unit_macs"] == dict(zip(UNITS, macs, strict=True))
    assert record["largest_unit_macs"] == max(macs)
    of_config = analyze_memory(str(ROOT / "configs" / SHORT), out=str(tmp_path / "config.json"))
    differing = {key for key in record if record[key] != of_config[key]}
    assert differing <= {"checkpoint", "encoder", "duration_s", "git_revision"}
    file = analysis_file("memory", f"configs/{SHORT}", encoder, 0)
    assert str(file) == "work_dirs/readout/k4_subsampled_resnet18_cifar10_short.readout/analysis_memory.json"


def test_sizes_can_be_overridden(tmp_path):
    """Half the batch keeps half the activations; a result of other sizes is not overwritten."""
    checkpoint = str(write_checkpoint(tmp_path))
    whole, half = (analyze_memory(checkpoint, batch, 16, str(tmp_path / f"{batch}.json")) for batch in (16, 8))
    assert (half["batch_size"], half["image_size"]) == (8, 16)
    assert half["account"]["activations"] == pytest.approx(whole["account"]["activations"] / 2, rel=0.02)
    with pytest.raises(ValueError, match="other settings; differing keys: image_size; .*--out"):
        analyze_memory(checkpoint, 8, 24, str(tmp_path / "8.json"))
    with pytest.raises(ValueError, match="batch size is 1; a contrastive step needs at least 2 images"):
        analyze_memory(checkpoint, 1)


def test_every_size_and_precision_has_a_record_of_its_own(tmp_path):
    """Through the tool's arguments; bfloat16 halves the activations of a pretraining in float32."""
    checkpoint = str(write_checkpoint(tmp_path))
    parser = argparse.ArgumentParser()
    add_analysis_arguments(parser)
    records = {}
    for given in ("", "--batch-size 512", "--batch-size 512 --image-size 16", "--autocast bfloat16"):
        printed = run_analyses(parser.parse_args([checkpoint, "--what", "memory", *given.split()]))
        (records[given],) = json.loads(printed)["runs"]
    plain, *_, half = records.values()
    assert (plain["precision"], half["precision"]) == ("float32", "bfloat16")
    assert half["account"]["activations"] < 0.6 * plain["account"]["activations"]
    assert {file.name for file in (tmp_path / "epoch_2.readout").iterdir()} == {
        "analysis_memory.json", "analysis_memory_batch512.json", "analysis_memory_batch512_16px.json",
        "analysis_memory_bfloat16.json"}


@pytest.mark.slow
def test_the_papers_figures_come_out_of_its_configs(tmp_path):
    """Table 1's memory on CIFAR-10 within 3.5 %, its "Max MACs" within 2.5 %, without a training; all K: report's tests."""
    k = 4
    config = ROOT / f"configs/pretrain/subsampling/k{k}_simclr_resnet50_cifar10.py"
    record = analyze_memory(str(config), out=str(tmp_path / "memory.json"))
    assert record["peak_bytes"] + record["optimizer_bytes"] == pytest.approx(CIFAR10_MEMORY[k], rel=0.035)
    published = dict(zip((1, 4, 8, 16), LARGEST_BLOCK_MACS["small", 32], strict=True))
    assert record["largest_unit_macs"] == pytest.approx(published[k], rel=0.025)


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [(dict(type="Adam", weight_decay=1e-6), 2), (dict(type="LARS", momentum=0.9), 1), (dict(type="SGD"), 0),
     (dict(type="SGD", momentum=0.9), 1), (dict(type="AdamW"), 2)],
)
def test_what_an_optimizer_keeps(optimizer, numbers):
    """Moments as large as the parameters; a step counter is nothing."""
    assert numbers_kept(optimizer) == numbers


def test_what_is_no_pretraining_has_no_memory(tmp_path):
    """Each with what would have."""
    torch.save(build_encoder(dict(type="resnet18", width=4)).state_dict(), tmp_path / "bare.pth")
    (tmp_path / "config.py").write_text("model = dict(type='MaskRCNN')")
    (tmp_path / "part.py").write_text("model = dict(encoder='resnet18', rule='loco')")
    for folder in ("old", "alone"):
        (tmp_path / folder).mkdir()
    old = write_checkpoint(tmp_path / "old", settings=None)
    alone = write_checkpoint(tmp_path / "alone", epochs_per_unit=3)
    for file, message in (("random", "memory needs a checkpoint of tools/pretrain.py.*a random encoder has none"),
                          (tmp_path / "bare.pth", "has no record of its encoder"),
                          (tmp_path / "config.py", "config.py is no pretraining config: it has no model.rule"),
                          ("configs/none.py", "config file configs/none.py does not exist"),
                          (tmp_path / "part.py", "part.py is only a part of a pretraining config"),
                          (ROOT / "configs/_base_/pretrain_decoupled.py", "does not tell the size of its views"),
                          (old, "is of an older version.*pass its config file instead"),
                          (alone, "alone/epoch_2.pth: the pretraining trains one unit after the other")):
        with pytest.raises(ValueError, match=message):
            analyze_memory(str(file))


@pytest.mark.slow
def test_a_real_run_is_analyzed_by_the_tool(tmp_path, run_tool):
    """A tiny subsampled pretraining, with a threshold that drops pairs: shares of its log, memory of its step."""
    root = write_class_folders(tmp_path / "colours", train=12, test=3)
    options = ["train_dataloader.dataset.source=folder", "train_dataloader.dataset.image_size=16", "train_cfg.max_epochs=2",
               "train_dataloader.batch_size=6", "data_preprocessor.size=16", "default_hooks.logger.interval=1",
               "model.subsampling.threshold=0.97"]
    finished = run_tool("pretrain", f"configs/{SHORT}", "--data-root", root, "--work-dir", tmp_path / "run",
                        "--cfg-options", *options)
    assert finished.returncode == 0, finished.stderr
    kept, memory = (run_tool("analyze", tmp_path / "run" / "epoch_2.pth", "--what", what) for what in ("kept", "memory"))
    (record,) = json.loads(kept.stdout)["runs"]
    assert record["method"] == "decoupled, K = 4, T = 0.97"
    assert (record["units"], record["iterations"], record["epochs"]) == (UNITS, [1, 2, 3, 4], [0.5, 1, 1.5, 2])
    shares = [share for unit in UNITS for share in record["kept_negative"][unit]]
    assert all(0 <= share <= 1 for share in shares) and min(shares) < 1
    (record,) = json.loads(memory.stdout)["runs"]
    assert (record["batch_size"], record["image_size"]) == (6, 16)
