"""Analyses of encoders and of their pretraining, from files to records, through the library and through the tool."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from PIL import Image

from pretrain.costs.complexity import unit_macs
from pretrain.costs.memory import step_cost
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import FORMAT, FORMAT_VERSION, RECORD_KEY
from pretrain.eval.analysis import (
    analyze,
    analyze_kept,
    analyze_memory,
    analyze_probes,
    analyze_spectrum,
    numbers_kept,
)
from pretrain.eval.evaluate import evaluate
from pretrain.eval.features import EncoderChangedError, load_encoder
from pretrain.eval.spectrum import feature_spectrum
from pretrain.local.units import build_units
from pretrain.objectives import OBJECTIVES
from pretrain.results.method import random_identity
from tests.conftest import ROOT, assert_one_line_error
from tests.pretrain.eval.synthetic import write_class_folders
from tests.pretrain.eval.written import identity_of_config
from tests.pretrain.local.test_decoupled import CIFAR10_MEMORY, LARGEST_BLOCK_MACS

SHORT = "../tests/pretrain/eval/k4_subsampled.py"
UNITS = ["res2", "res3", "res4", "res5"]
TINY = dict(type="resnet18", stem="small", width=4)
BLOCKS = ["res2.1", "res2.2", "res3.1", "res3.2", "res4.1", "res4.2", "res5.1", "res5.2"]
IDENTITY = identity_of_config(SHORT, epochs=2, model__encoder=TINY, data_preprocessor__size=16)
META = dict(format=FORMAT, version=FORMAT_VERSION, epoch=2, iter=8, **IDENTITY)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data") / "colours", train=12, test=6)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Ten images of one folder, without a split."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    torch.save({"state_dict": build_encoder(TINY).state_dict(), "meta": META}, tmp_path / "epoch_2.pth")
    return tmp_path / "epoch_2.pth"


HERE = dict(workers=0, device="cpu", batch_size=8)


def test_probes_say_how_accuracy_grows_with_depth(backbone, classes):
    """Accuracies of every block and its place in the encoder; beside the checkpoint, and the same as is returned."""
    record = analyze_probes(str(backbone), "cached", data_root=str(classes), **HERE)
    written = backbone.with_name("epoch_2.eval") / "analysis_probes_colours.json"
    assert json.loads(written.read_text()) == json.loads(json.dumps(record))
    assert (record["kind"], record["method"], record["setting"]) == ("analysis", IDENTITY["method"], IDENTITY["setting"])
    assert record["repetition"] == dict(seed=0, evaluation_seed=0)
    protocol = record["protocol"]
    assert (protocol["name"], protocol["method"], protocol["image_size"]) == ("probes", "linear_cached", 16)
    assert record["corrupt"] == dict(train=0, test=0)
    blocks = record["details"]["blocks"]
    assert [block["name"] for block in blocks] == BLOCKS
    assert [block["block"] for block in blocks] == list(range(8))
    assert [block["stage"] for block in blocks] == [name.partition(".")[0] for name in BLOCKS]
    assert [block["end_of_unit"] for block in blocks] == [False, True] * 4
    assert [(row["stage"], row["metric"]) for row in record["rows"]] == [
        (name, metric) for name in BLOCKS for metric in ("top1", "train_top1")]
    assert {row["dataset"] for row in record["rows"]} == {"colours"}
    stages = evaluate(str(backbone), "cached", data_root=str(classes), **HERE)
    assert top1_of(record)[1::2] == top1_of(stages)


def top1_of(record) -> list[float]:
    return [row["value"] for row in record["rows"] if row["metric"] == "top1"]


def test_spectrum_is_that_of_the_pooled_features(backbone, unlabelled):
    """Of images without labels, against features pooled here; the encoder's end of every stage by default."""
    record = analyze_spectrum(str(backbone), data_root=str(unlabelled), **{**HERE, "batch_size": 3})
    protocol = record["protocol"]
    assert (protocol["name"], protocol["points"], protocol["image_size"]) == ("spectrum", "stages", 16)
    assert record["details"]["images"] == 10
    assert (record["data"]["split"], record["data"]["images"], record["corrupt"]) == (None, 10, 0)
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in sorted(unlabelled.iterdir())])
    encoder, _ = load_encoder(str(backbone), None, seed=0)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    with torch.no_grad():
        maps = encoder.eval()((images.permute(0, 3, 1, 2).float() - mean) / std)
    points = record["details"]["points"]
    assert [(point["name"], point["block"], point["features"]) for point in points] == [
        ("res2", 1, 4), ("res3", 3, 8), ("res4", 5, 16), ("res5", 7, 32)]
    rows = {(row["stage"], row["metric"]): row["value"] for row in record["rows"]}
    names = ("effective_rank", "centred_effective_rank", "covariance_effective_rank", "participation_ratio")
    assert len(rows) == len(points) * len(names)
    for point in points:
        expected = feature_spectrum(F.adaptive_avg_pool2d(maps[point["name"]], 1).flatten(1))
        np.testing.assert_allclose(point["singular_values"], expected.singular_values, rtol=1e-4, atol=1e-9)
        for name in names:
            assert point[name] == rows[point["name"], name] == pytest.approx(getattr(expected, name), rel=1e-4)


def test_spectrum_of_blocks_splits_and_subsets(backbone, classes):
    """The test split of a set that has one, another one by name, and as many images as asked for; corrupt ones left out."""
    record = analyze_spectrum(str(backbone), "blocks", data_root=str(classes), **HERE)
    assert [point["name"] for point in record["details"]["points"]] == BLOCKS
    assert (record["data"]["split"], record["details"]["images"]) == ("val", 6)
    record = analyze_spectrum(str(backbone), split="train", limit=5, data_root=str(classes), **HERE)
    assert (record["data"]["split"], record["data"]["limit"], record["details"]["images"]) == ("train", 5, 5)
    shutil.copytree(classes, backbone.with_name("damaged"))
    (backbone.with_name("damaged") / "val/class0/3.png").write_bytes(b"not an image")
    record = analyze_spectrum(str(backbone), data_root=str(backbone.with_name("damaged")), **HERE)
    assert (record["details"]["images"], record["data"]["images"], record["corrupt"]) == (5, 6, 1)


def test_a_random_encoder_is_a_baseline(backbone, classes, tmp_path, monkeypatch):
    """Alone, without a unit that ends anywhere; after another file it has that one's encoder and view size."""
    options = dict(encoder=TINY, image_size=16, seed=2, epochs=1, out=str(tmp_path / "random.json"), data_root=str(classes))
    record = analyze_probes("random", **options, **HERE)
    assert {key: record[key] for key in ("method", "setting", "repetition")} == random_identity(TINY, 2)
    assert not any(block["end_of_unit"] for block in record["details"]["blocks"])
    monkeypatch.chdir(tmp_path)  # where random's records go
    runs = analyze("spectrum", [str(backbone), "random"], data_root=str(classes), **HERE)["runs"]
    assert [run["setting"]["encoder"] for run in runs] == [TINY, TINY]
    assert [run["protocol"]["image_size"] for run in runs] == [16, 16]
    assert [run["encoder_file"]["file"] for run in runs] == ["epoch_2.pth", "random"]
    with pytest.raises(ValueError, match="--out is one file"):
        analyze("spectrum", [str(backbone), "random"], out="x.json", data_root=str(classes), **HERE)


def test_an_unregistered_rule_has_probes(backbone, classes):
    """Of a checkpoint that names a rule which nobody has imported here: as those of any encoder."""
    content = torch.load(backbone)
    content["meta"]["method"] = {**IDENTITY["method"], "rule": dict(type="somebodys"), "label": "somebodys"}
    torch.save(content, backbone)
    record = analyze_probes(str(backbone), epochs=1, data_root=str(classes), **HERE)
    assert record["method"]["label"] == "somebodys"
    assert not any(block["end_of_unit"] for block in record["details"]["blocks"])


def test_no_record_of_a_changed_encoder_is_written(backbone, unlabelled, monkeypatch):
    """The guard is in the way of the file."""
    def meddle(pooled, *_):
        with torch.no_grad():
            next(pooled.encoder.parameters()).add_(1)
    monkeypatch.setattr("pretrain.eval.analysis.extract_features", meddle)
    with pytest.raises(EncoderChangedError, match="not bit-identical"):
        analyze_spectrum(str(backbone), data_root=str(unlabelled), **HERE)
    assert not list(backbone.parent.rglob("*.json"))


@pytest.mark.slow
def test_the_tool_analyzes_several_checkpoints(backbone, classes, unlabelled, run_tool):
    """JSON alone on stdout, a record for each in the order of the arguments; without labels there are no probes."""
    other = shutil.copy(backbone, backbone.with_name("epoch_3.pth"))
    common = [backbone, other, "--workers", "0", "--device", "cpu", "--data-root"]
    finished = run_tool("analyze", "spectrum", *common, classes, "--points", "blocks")
    assert finished.returncode == 0, finished.stderr
    printed = json.loads(finished.stdout)
    assert printed["what"] == "spectrum"
    assert [run["encoder_file"]["file"] for run in printed["runs"]] == ["epoch_2.pth", "epoch_3.pth"]
    assert_one_line_error(run_tool("analyze", "probes", *common, unlabelled), "photos")


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
    assert json.loads((tmp_path / "epoch_2.eval" / "analysis_kept.json").read_text()) == json.loads(json.dumps(record))
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
    """Nor is there anything without a log; no record is written."""
    checkpoint = write_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="has no training log"):
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


def test_sizes_and_precision_can_be_overridden(tmp_path):
    """Half the batch keeps half the activations, and so does bfloat16; each has a record of its own."""
    checkpoint = str(write_checkpoint(tmp_path))
    whole, half, low = (analyze_memory(checkpoint, **options)
                        for options in ({}, dict(batch_size=128, image_size=32), dict(autocast="bfloat16")))
    assert (half["protocol"]["batch_size"], half["protocol"]["image_size"]) == (128, 32)
    assert (whole["protocol"]["precision"], low["protocol"]["precision"]) == ("float32", "bfloat16")
    activations = [record["details"]["account"]["activations"] for record in (whole, half, low)]
    assert activations[1] == pytest.approx(activations[0] / 2, rel=0.02)
    assert activations[2] < 0.6 * activations[0]
    assert sorted(file.name for file in (tmp_path / "epoch_2.eval").iterdir()) == [
        "analysis_memory.json", "analysis_memory_2.json", "analysis_memory_3.json"]
    with pytest.raises(ValueError, match="batch size is 1;"):
        analyze_memory(checkpoint, batch_size=1)


@pytest.mark.slow
def test_the_papers_figures_come_out_of_its_configs(tmp_path):
    """Table 1's memory on CIFAR-10 within 3.5 %, its "Max MACs" within 2.5 %, without a training."""
    for k, published in zip((1, 4, 8, 16), LARGEST_BLOCK_MACS["small", 32], strict=True):
        config = tmp_path / f"k{k}.py"
        config.write_text(f"_base_ = [{str(ROOT / 'configs/pretrain/decoupled_resnet50_cifar10.py')!r}]\n"
                          f"model = dict(rule=dict(k={k}))\n")
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


def test_what_is_not_a_pretraining_has_no_memory(tmp_path):
    """Nor has one whose units are trained one after the other."""
    torch.save(build_encoder(dict(type="resnet18", width=4)).state_dict(), tmp_path / "bare.pth")
    (tmp_path / "config.py").write_text("model = dict(type='MaskRCNN')")
    (tmp_path / "part.py").write_text("model = dict(encoder='resnet18', rule='loco')")
    alone = write_checkpoint(tmp_path, method=dict(epochs_per_unit=3))
    for file, message in (("random", "random has no record"), (tmp_path / "bare.pth", "bare.pth"),
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
    kept, memory = (run_tool("analyze", what, tmp_path / "run" / "epoch_2.pth") for what in ("kept", "memory"))
    (record,) = json.loads(kept.stdout)["runs"]
    assert record["method"]["label"] == "decoupled, K = 4, T = 0.97"
    details = record["details"]
    assert (details["units"], details["iterations"], details["epochs"]) == (UNITS, [1, 2, 3, 4], [0.5, 1, 1.5, 2])
    shares = [share for unit in UNITS for share in details["kept_negative"][unit]]
    assert all(0 <= share <= 1 for share in shares) and min(shares) < 1
    (record,) = json.loads(memory.stdout)["runs"]
    assert (record["protocol"]["batch_size"], record["protocol"]["image_size"]) == (6, 16)
