"""Kept pairs from training logs, and the memory of a step, of checkpoints and of configs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import pytest
import torch
from mmengine.config import Config

from pretrain.costs.complexity import unit_macs
from pretrain.costs.memory import step_cost
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import RECORD_KEY
from pretrain.eval.arguments import add_analysis_arguments, run_analyses
from pretrain.eval.step_costs import numbers_kept
from pretrain.eval.training_analysis import analyze_kept, analyze_memory
from pretrain.local.units import build_units
from pretrain.objectives import OBJECTIVES
from tests.conftest import ROOT
from tests.pretrain.eval.drawn import write_class_folders
from tests.pretrain.eval.written import identity_of_config
from tests.pretrain.local.test_decoupled import CIFAR10_MEMORY, LARGEST_BLOCK_MACS

SHORT = "pretrain/subsampling/k4_subsampled_resnet18_cifar10_short.py"
UNITS = ["res2", "res3", "res4", "res5"]


def write_checkpoint(folder, epoch: int = 2, config: str = SHORT, method=None, **options):
    """A checkpoint of a config whose encoder nobody has trained; ``method`` replaces parts of its method."""
    identity = identity_of_config(config, **options)
    identity["method"] |= method or {}
    record = {**identity, "epoch": epoch, "iter": 4 * epoch}
    encoder = build_encoder(identity["setting"]["encoder"])
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"state_dict": weights, RECORD_KEY: record}, folder / f"epoch_{epoch}.pth")
    return folder / f"epoch_{epoch}.pth"


def write_log(work_dir, units=UNITS, alone=False):
    """A log of two epochs of four iterations, every second one logged; every share is another number.

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
    """Every unit's shares at every record; their means over the last epoch are measurements."""
    write_log(tmp_path)
    record = analyze_kept(str(write_checkpoint(tmp_path)))
    details = record["details"]
    assert json.loads((tmp_path / "epoch_2.readout" / "analysis_kept.json").read_text()) == json.loads(json.dumps(record))
    assert (record["kind"], record["protocol"]) == ("analysis", dict(name="kept"))
    assert record["method"]["label"] == "decoupled, K = 4, T = 0"
    assert (details["units"], details["iterations"], details["epochs"]) == (UNITS, [2, 4, 6, 8], [0.5, 1, 1.5, 2])
    assert details["kept_positive"]["res3"] == [1 / 21, 1 / 41, 1 / 61, 1 / 81]
    assert details["kept_negative"]["res2"] == [1 / 40, 1 / 80, 1 / 120, 1 / 160]
    rows = {(row["stage"], row["metric"]): row["value"] for row in record["rows"]}
    assert list(rows) == [(unit, metric) for unit in UNITS for metric in ("kept_positive", "kept_negative")]
    assert rows["res2", "kept_positive"] == pytest.approx((1 / 60 + 1 / 80) / 2)
    assert rows["res2", "kept_negative"] == pytest.approx((1 / 120 + 1 / 160) / 2)
    assert {row["dataset"] for row in record["rows"]} == {"cifar10"}


def test_an_early_checkpoint_knows_nothing_of_later_epochs(tmp_path):
    """What was logged after it is left out, of the last epoch's means, too."""
    write_log(tmp_path)
    details = analyze_kept(str(write_checkpoint(tmp_path, epoch=1)))["details"]
    assert details["iterations"] == [2, 4]
    assert details["last_epoch"]["res2"]["kept_positive"] == pytest.approx((1 / 20 + 1 / 40) / 2)


def test_units_that_are_trained_one_after_the_other_have_epochs_of_their_own(tmp_path):
    """No share where a unit was not trained; one whose turn comes after the checkpoint is not among the units."""
    write_log(tmp_path, units=UNITS[:2], alone=True)
    details = analyze_kept(str(write_checkpoint(tmp_path)))["details"]
    assert details["kept_positive"] == dict(res2=[1 / 20, 1 / 40, None, None], res3=[None, None, 1 / 61, 1 / 81])
    assert details["last_epoch"]["res2"]["kept_positive"] == pytest.approx((1 / 20 + 1 / 40) / 2)
    assert analyze_kept(str(write_checkpoint(tmp_path, epoch=1)))["details"]["units"] == ["res2"]


def test_a_pretraining_without_subsampling_kept_all(tmp_path):
    """The message says what to train; and without a log, where it is looked for."""
    checkpoint = write_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="epoch_2.pth, but .* has no training log"):
        analyze_kept(str(checkpoint))
    write_log(tmp_path, units=())
    with pytest.raises(ValueError, match="logged no kept pairs"):
        analyze_kept(str(checkpoint))
    assert not list(tmp_path.rglob("analysis_*.json"))


def test_memory_is_that_of_the_recorded_step(tmp_path):
    """Encoder, units, projectors, loss, batch and views of the record, with Adam's two moments; the same of its config."""
    record = analyze_memory(str(write_checkpoint(tmp_path)))
    model = Config.fromfile(str(ROOT / "configs" / SHORT), import_custom_modules=False).to_dict()["model"]
    encoder = model["encoder"]
    cost = step_cost(encoder, {key: model[key] for key in ("rule", "head", "objective")}, batch_size=256,
                     image_size=32)
    assert record["protocol"] == dict(name="memory", batch_size=256, image_size=32, recompute="none", precision="float32")
    counted = record["details"]
    assert {**asdict(cost), "optimizer_bytes": 2 * cost.optimizer_bytes}.items() <= counted.items()
    assert counted["peak_bytes"] == counted["parameter_bytes"] + counted["gradient_bytes"] + counted["activation_bytes"]
    built = build_encoder(encoder)
    macs = unit_macs(built, build_units(model["rule"], built.stages), 32)
    assert measured(record) == {
        ("peak_bytes", None): cost.peak_bytes, ("optimizer_bytes", None): 2 * cost.optimizer_bytes,
        ("memory_bytes", None): cost.peak_bytes + 2 * cost.optimizer_bytes, ("largest_unit_macs", None): max(macs),
        **{("unit_macs", unit): each for unit, each in zip(UNITS, macs, strict=True)}}
    assert {row["dataset"] for row in record["rows"]} == {"cifar10"}
    of_config = analyze_memory(str(ROOT / "configs" / SHORT), out=str(tmp_path / "config.json"))
    assert {**of_config["setting"], "images": 50_000, "epochs_done": 2} == record["setting"]
    assert (of_config["repetition"], of_config["encoder_file"]["sha256"]) == ({}, None)
    for key in ("method", "protocol", "details", "rows"):
        assert of_config[key] == record[key]


def measured(record) -> dict[tuple, float]:
    return {(row["metric"], row["stage"]): row["value"] for row in record["rows"]}


OWN_OBJECTIVE = """
import torch
from pretrain.objectives import OBJECTIVES, Objective

@OBJECTIVES.register_module()
class CrossCorrelation(Objective):
    def forward(self, projections):
        first, second = projections.chunk(2)
        pairs = torch.einsum("ni,nj,nk->ijk", first, second, first)
        return pairs.square().sum(), {}
"""


def test_an_objective_of_a_users_own_is_counted_as_itself(tmp_path, monkeypatch):
    """It makes a tensor that NT-Xent does not, which its config's record and its checkpoint's show."""
    (tmp_path / "own_objective.py").write_text(OWN_OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "own.py"
    config.write_text(f"_base_ = [{str(ROOT / 'configs' / SHORT)!r}]\n"
                      "custom_imports = dict(imports=['pretrain.run', 'own_objective'])\n"
                      "model = dict(objective=dict(_delete_=True, type='CrossCorrelation'))\n")
    try:
        record = analyze_memory(str(config), batch_size=8, out=str(tmp_path / "own.json"))
        checkpoint = write_checkpoint(tmp_path, config=str(config))
        of_checkpoint = analyze_memory(str(checkpoint), batch_size=8)
    finally:
        OBJECTIVES.module_dict.pop("CrossCorrelation", None)
        sys.modules.pop("own_objective", None)
    plain = analyze_memory(str(ROOT / "configs" / SHORT), batch_size=8, out=str(tmp_path / "plain.json"))
    assert record["method"]["label"] == "decoupled, K = 4, CrossCorrelation"
    assert record["method"] == of_checkpoint["method"] and measured(record) == measured(of_checkpoint)
    assert measured(record)["peak_bytes", None] > measured(plain)["peak_bytes", None] + 4 * 128**3
    with pytest.raises(ValueError, match="CrossCorrelation"):  # which is registered no longer
        analyze_memory(str(checkpoint), batch_size=6)


def test_sizes_can_be_overridden(tmp_path):
    """Half the batch keeps half the activations; a result of other sizes is not overwritten."""
    checkpoint = str(write_checkpoint(tmp_path))
    whole, half = (analyze_memory(checkpoint, batch, 16, str(tmp_path / f"{batch}.json")) for batch in (16, 8))
    assert (half["protocol"]["batch_size"], half["protocol"]["image_size"]) == (8, 16)
    activations = [record["details"]["account"]["activations"] for record in (whole, half)]
    assert activations[1] == pytest.approx(activations[0] / 2, rel=0.02)
    with pytest.raises(ValueError, match="differing keys: protocol.image_size;"):
        analyze_memory(checkpoint, 8, 24, str(tmp_path / "8.json"))
    with pytest.raises(ValueError, match="batch size is 1;"):
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
    assert (plain["protocol"]["precision"], half["protocol"]["precision"]) == ("float32", "bfloat16")
    assert half["details"]["account"]["activations"] < 0.6 * plain["details"]["account"]["activations"]
    assert {file.name for file in (tmp_path / "epoch_2.readout").iterdir()} == {
        "analysis_memory.json", "analysis_memory_batch512.json", "analysis_memory_batch512_16px.json",
        "analysis_memory_bfloat16.json"}


@pytest.mark.slow
def test_the_papers_figures_come_out_of_its_configs(tmp_path):
    """Table 1's memory on CIFAR-10 within 3.5 %, its "Max MACs" within 2.5 %, without a training."""
    for k, published in zip((1, 4, 8, 16), LARGEST_BLOCK_MACS["small", 32], strict=True):
        config = ROOT / f"configs/pretrain/subsampling/k{k}_simclr_resnet50_cifar10.py"
        if config.is_file():
            found = measured(analyze_memory(str(config), out=str(tmp_path / f"{k}.json")))
            assert found["memory_bytes", None] == pytest.approx(CIFAR10_MEMORY[k], rel=0.035)
            assert found["largest_unit_macs", None] == pytest.approx(published, rel=0.025)


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
    alone = write_checkpoint(tmp_path, method=dict(epochs_per_unit=3))
    for file, message in (("random", "random encoder"), (tmp_path / "bare.pth", "bare.pth"),
                          (tmp_path / "config.py", "model.rule"), ("configs/none.py", "configs/none.py does not exist"),
                          (tmp_path / "part.py", "train_dataloader"), (alone, "one unit after the other")):
        with pytest.raises(ValueError, match=message):
            analyze_memory(str(file))


@pytest.mark.slow
def test_a_real_run_is_analyzed_by_the_tool(tmp_path, run_tool):
    """A tiny subsampled pretraining, with a threshold that drops pairs: shares of its log, memory of its step."""
    root = write_class_folders(tmp_path / "colours", train=12, test=3)
    options = ["train_dataloader.dataset.source=folder", "train_dataloader.dataset.image_size=16", "train_cfg.max_epochs=2",
               "train_dataloader.batch_size=6", "data_preprocessor.size=16", "default_hooks.logger.interval=1",
               "model.objective.threshold=0.97"]
    finished = run_tool("pretrain", f"configs/{SHORT}", "--data-root", root, "--work-dir", tmp_path / "run",
                        "--cfg-options", *options)
    assert finished.returncode == 0, finished.stderr
    kept, memory = (run_tool("analyze", tmp_path / "run" / "epoch_2.pth", "--what", what) for what in ("kept", "memory"))
    (record,) = json.loads(kept.stdout)["runs"]
    assert record["method"]["label"] == "decoupled, K = 4, T = 0.97"
    details = record["details"]
    assert (details["units"], details["iterations"], details["epochs"]) == (UNITS, [1, 2, 3, 4], [0.5, 1, 1.5, 2])
    shares = [share for unit in UNITS for share in details["kept_negative"][unit]]
    assert all(0 <= share <= 1 for share in shares) and min(shares) < 1
    (record,) = json.loads(memory.stdout)["runs"]
    assert (record["protocol"]["batch_size"], record["protocol"]["image_size"]) == (6, 16)
