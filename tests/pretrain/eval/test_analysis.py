"""Probes and spectra of encoders, from files to records, through the library and through the tool."""

from __future__ import annotations

import argparse
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import FORMAT, FORMAT_VERSION
from pretrain.errors import RunFailedError
from pretrain.eval.adam_probe import AdamLinearProbe
from pretrain.eval.analysis import analyze_probes, analyze_spectrum
from pretrain.eval.arguments import add_analysis_arguments, run_analyses
from pretrain.eval.encoders import EncoderChangedError, load_encoder
from pretrain.eval.evaluate import Readout, read_out
from pretrain.eval.logistic import CachedLinearProbe
from pretrain.eval.spectrum import feature_spectrum
from pretrain.eval.unlabelled import load_unlabelled_data
from pretrain.results.method import random_identity
from pretrain.results.store import find_records
from tests.conftest import assert_one_line_error
from tests.pretrain.eval.drawn import write_class_folders
from tests.pretrain.eval.written import identity_of_config

TINY = dict(type="resnet18", stem="small", width=4)
BLOCKS = ["res2.1", "res2.2", "res3.1", "res3.2", "res4.1", "res4.2", "res5.1", "res5.2"]
IDENTITY = identity_of_config("pretrain/subsampling/k4_subsampled_resnet18_cifar10_short.py", epochs=2, model__encoder=TINY,
                              data_preprocessor__size=16)
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


def readout(file, root, **options) -> Readout:
    return Readout(**{**dict(file=str(file), source="folder", data_root=str(root), workers=0, device="cpu"), **options})


def run_in_process(arguments, root) -> list[dict]:
    """The records of tools/analyze.py without a process of its own, computed on the CPU."""
    parser = argparse.ArgumentParser()
    add_analysis_arguments(parser)
    common = ["--data-root", root, "--workers", "0", "--device", "cpu"]
    return json.loads(run_analyses(parser.parse_args([str(each) for each in (*arguments, *common)])))["runs"]


def test_probes_say_how_accuracy_grows_with_depth(backbone, classes):
    """Accuracies of every block and its place in the encoder; beside the checkpoint, and the same as is returned."""
    method = CachedLinearProbe(batch_size=8, penalties=(1e-2,))
    record = analyze_probes(readout(backbone, classes), method)
    written = backbone.with_name("epoch_2.readout") / "analysis_probes_colours_cached_penalties_0.01_.json"
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
    stages = read_out(readout(backbone, classes), method)["rows"]  # as of linear_eval.py
    assert top1_of(record)[1::2] == top1_of({"rows": stages})


def top1_of(record) -> list[float]:
    return [row["value"] for row in record["rows"] if row["metric"] == "top1"]


def test_spectrum_is_that_of_the_pooled_features(backbone, unlabelled):
    """Of images without labels, against features pooled here; the encoder's end of every stage by default."""
    record = analyze_spectrum(readout(backbone, unlabelled), batch_size=3)
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


def test_spectrum_of_blocks_splits_and_subsets(backbone, classes, unlabelled):
    """The test split of a set that has one, another one by name, and as many images as asked for."""
    record = analyze_spectrum(readout(backbone, classes), points="blocks", batch_size=4)
    assert [point["name"] for point in record["details"]["points"]] == BLOCKS
    assert (record["data"]["split"], record["details"]["images"]) == ("val", 6)
    out = str(backbone.with_name("train.json"))
    record = analyze_spectrum(readout(backbone, classes, test_split="train", limit=5, out=out), batch_size=4)
    assert (record["data"]["split"], record["data"]["limit"], record["details"]["images"]) == ("train", 5, 5)
    with pytest.raises(ValueError, match="limit is 11"):
        analyze_spectrum(readout(backbone, unlabelled, limit=11))
    with pytest.raises(ValueError, match="ends"):
        analyze_spectrum(readout(backbone, unlabelled), points="ends")


def test_all_images_are_looked_at_only_where_no_split_is_the_test_split(unlabelled, tmp_path):
    """A list without splits is taken whole; of a standard set nobody gets training images who did not ask for them."""
    files = sorted(file.name for file in unlabelled.iterdir())[:4]
    (unlabelled.parent / "some.txt").write_text("".join(f"photos/{name}\n" for name in files))
    whole = load_unlabelled_data(dict(type="file_list", file="some.txt"), unlabelled.parent)
    assert (whole.record["split"], whole.record["images"], whole.record["options"]) == (None, 4, dict(file="some.txt"))
    np.zeros((4, 3, 96, 96), dtype=np.uint8).tofile(tmp_path / "train_X.bin")
    np.ones(4, dtype=np.uint8).tofile(tmp_path / "train_y.bin")
    with pytest.raises(ValueError, match="test_X.bin"):
        load_unlabelled_data("stl10", tmp_path)
    assert load_unlabelled_data("stl10", tmp_path, "train").record["images"] == 4
    few, fewer = (load_unlabelled_data("folder", unlabelled, limit=limit, seed=3).indices for limit in (6, 3))
    assert set(fewer) < set(few)


def test_an_corrupt_image_is_left_out(backbone, unlabelled, tmp_path):
    """And counted; the spectrum is that of the others."""
    shutil.copytree(unlabelled, tmp_path / "damaged")
    (tmp_path / "damaged" / "3.png").write_bytes(b"no image")
    record = analyze_spectrum(readout(backbone, tmp_path / "damaged"))
    assert (record["details"]["images"], record["data"]["images"], record["corrupt"]) == (9, 10, 1)


def test_a_random_encoder_is_a_baseline(classes, tmp_path):
    """Without a unit that ends anywhere; its seed is the repetition."""
    options = dict(encoder=TINY, image_size=16, out=str(tmp_path / "random.json"), seed=2)
    record = analyze_probes(readout("random", classes, **options), AdamLinearProbe(epochs=1))
    assert {key: record[key] for key in ("method", "setting", "repetition")} == random_identity(TINY, 2)
    assert record["encoder_file"] == dict(file="random", sha256=None)
    assert not any(block["end_of_unit"] for block in record["details"]["blocks"])


def test_an_unregistered_rule_has_probes(backbone, classes):
    """Of a checkpoint that names a rule which nobody has imported here: as those of any encoder."""
    content = torch.load(backbone)
    content["meta"]["method"] = {**IDENTITY["method"], "rule": dict(type="somebodys"), "label": "somebodys"}
    torch.save(content, backbone)
    record = analyze_probes(readout(backbone, classes), AdamLinearProbe(epochs=1))
    assert record["method"]["label"] == "somebodys"
    assert not any(block["end_of_unit"] for block in record["details"]["blocks"])


def test_records_are_kept_resumed_and_never_overwritten_by_others(backbone, unlabelled):
    """As those of evaluations are."""
    analyze_spectrum(readout(backbone, unlabelled))
    file = backbone.with_name("epoch_2.readout") / "analysis_spectrum_photos.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "duration_s": -1}))
    assert analyze_spectrum(readout(backbone, unlabelled, resume=True))["duration_s"] == -1
    assert analyze_spectrum(readout(backbone, unlabelled))["duration_s"] >= 0
    for resume in (False, True):
        with pytest.raises(ValueError, match="differing keys: protocol.image_size, protocol.points;"):
            analyze_spectrum(readout(backbone, unlabelled, image_size=24, resume=resume, out=str(file)), points="blocks")


@pytest.mark.parametrize(("what", "given", "name"), [
    ("spectrum", [], "analysis_spectrum_colours.json"),
    ("spectrum", ["--split", "val", "--image-size", "16", "--points", "stages"], "analysis_spectrum_colours.json"),
    ("spectrum", ["--points", "blocks"], "analysis_spectrum_colours_blocks.json"),
    ("spectrum", ["--split", "train", "--image-size", "24", "--seed", "3"],
     "analysis_spectrum_colours_train_24px_seed3.json"),
    ("spectrum", ["--limit", "4", "--seed", "3"], "analysis_spectrum_colours_4images_seed3.json"),
    ("spectrum", ["--autocast", "bfloat16"], "analysis_spectrum_colours_bfloat16.json"),
    ("probes", ["--epochs", "1"], "analysis_probes_colours_epochs1.json"),
    ("probes", ["--epochs", "1", "--batch-size", "8"], "analysis_probes_colours_epochs1_batch_size8.json"),
    ("probes", ["--train-split", "val", "--test-split", "train", "--epochs", "1"],
     "analysis_probes_colours_val_train_epochs1.json"),
])
def test_analyses_of_one_checkpoint_have_files_of_their_own(what, given, name, backbone, classes):
    """Named by what is not the default, whether it was given or not; the same settings have the same file."""
    run_in_process([backbone, "--what", what, *given], classes)
    assert [file.name for file in backbone.with_name("epoch_2.readout").iterdir()] == [name]


def test_several_checkpoints_are_analyzed_in_several_ways(backbone, classes):
    """Which --out, being one file, could not keep apart."""
    other = shutil.copy(backbone, backbone.with_name("epoch_1.pth"))
    for more in ([], ["--points", "blocks"], ["--split", "train"]):
        assert len(run_in_process([backbone, other, "--what", "spectrum", *more], classes)) == 2
    assert len(find_records([backbone.parent])[0]) == 6


def test_one_unsuitable_checkpoint_does_not_keep_the_others(backbone, unlabelled, capsys):
    """It is reported when its turn comes; the error at the end names it and holds what was found."""
    damaged = backbone.with_name("epoch_1.pth")
    damaged.write_bytes(backbone.read_bytes()[:1000])
    last = shutil.copy(backbone, backbone.with_name("epoch_3.pth"))
    with pytest.raises(RunFailedError, match="epoch_1.pth") as error:
        run_in_process([backbone, damaged, last, "--what", "spectrum"], unlabelled)
    assert files_of(json.loads(error.value.output)["runs"]) == ["epoch_2.pth", "epoch_3.pth"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert str(damaged) in line
    with pytest.raises(ValueError, match="epoch_1.pth"):
        run_in_process([damaged, "--what", "spectrum"], unlabelled)


def files_of(runs) -> list[str]:
    return [run["encoder_file"]["file"] for run in runs]


def test_the_encoder_option_is_for_files_without_a_record(backbone, unlabelled, tmp_path, monkeypatch):
    """Among several files; random takes it as well, or else that of the first file, and its view size."""
    monkeypatch.chdir(tmp_path)  # where random's records go
    bare = tmp_path / "bare.pth"
    torch.save(build_encoder(dict(type="resnet18", width=8)).state_dict(), bare)
    given = ["--encoder", "resnet18", "--encoder-options", "width=8"]
    runs = run_in_process([backbone, bare, "random", "--what", "spectrum", *given], unlabelled)
    assert [run["setting"]["encoder"]["width"] for run in runs] == [4, 8, 8]
    assert [run["protocol"]["image_size"] for run in runs] == [16, 224, 16]
    runs = run_in_process([backbone, "random", "--what", "spectrum"], unlabelled)
    assert [run["setting"]["encoder"] for run in runs] == [TINY, TINY]
    assert [run["protocol"]["image_size"] for run in runs] == [16, 16]
    assert files_of(runs) == ["epoch_2.pth", "random"]
    with pytest.raises(ValueError, match="width=4"):
        run_in_process([backbone, "--what", "spectrum", *given], unlabelled)


def test_a_folder_that_does_not_exist_is_refused(backbone, tmp_path):
    """Nobody is asked for splits within it."""
    with pytest.raises(ValueError, match="nope does not exist"):
        run_in_process([backbone, "--what", "spectrum"], tmp_path / "nope")


def test_no_record_of_a_changed_encoder_is_written(backbone, unlabelled, monkeypatch):
    """The guard is in the way of the file."""
    def meddle(pooled, *_):
        with torch.no_grad():
            next(pooled.encoder.parameters()).add_(1)
    monkeypatch.setattr("pretrain.eval.analysis.extract_features", meddle)
    with pytest.raises(EncoderChangedError, match="not bit-identical"):
        analyze_spectrum(readout(backbone, unlabelled))
    assert not list(backbone.parent.rglob("*.json"))


@pytest.mark.slow
def test_the_tool_looks_into_several_checkpoints(backbone, classes, run_tool):
    """JSON alone on stdout, a record for each in the order of the arguments, the same in their files."""
    (backbone.parent / "other").mkdir()
    other = shutil.copy(backbone, backbone.parent / "other")
    common = [backbone, other, "--data-root", classes, "--workers", "0", "--device", "cpu"]
    folders = [backbone.with_name("epoch_2.readout"), backbone.parent / "other"]
    for what, more in (("probes", ["--epochs", "1"]), ("spectrum", ["--points", "blocks"])):
        finished = run_tool("analyze", *common, "--what", what, *more)
        assert finished.returncode == 0, finished.stderr
        printed = json.loads(finished.stdout)
        assert printed["what"] == what
        written = [record.content for record in find_records(folders)[0] if record.content["protocol"]["name"] == what]
        assert written == printed["runs"] and len(written) == 2
    (backbone.parent / "torn.pth").write_bytes(backbone.read_bytes()[:1000])
    finished = run_tool("analyze", backbone.parent / "torn.pth", *common, "--what", "spectrum")
    assert finished.returncode == 1
    assert len(json.loads(finished.stdout)["runs"]) == 2
    assert "torn.pth" in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--what", "spectrum", "--epochs", "3"], "--epochs is not an option of --what spectrum"),
        (["--what", "memory", "--limit", "3"], "--limit is not an option of --what memory"),
        (["--what", "probes", "--protocol", "cached", "--epochs", "3"], "--epochs is not an option of the protocol"),
        (["random", "--what", "spectrum", "--out", "x.json"], "--out names one file, but each of the 2 checkpoints"),
        (["none.pth", "--what", "kept"], "checkpoint none.pth does not exist"),
        (["resnet50-19c8e357.pth", "--what", "spectrum"], "get it from https://download.pytorch.org/models/"),
        (["--what", "spectrum", "--image-size", "4"], "image_size is 4; at least 8 pixels are needed"),
        (["--what", "spectrum", "--batch-size", "0"], "batch_size is 0; it must be above 0"),
        (["--what", "spectrum", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["configs/pretrain/loco.py", "--what", "kept"], "loco.py is a config, which --what memory alone takes"),
        *[(["--what", what, option, value], f"{option} is not an option of --what {what}")
          for what in ("kept", "memory")
          for option, value in (("--encoder", "resnet18"), ("--encoder-options", "stem=small"), ("--data", "cifar10"),
                                ("--data-options", "file=x"), ("--workers", "2"), ("--seed", "7"), ("--device", "cpu"))],
        (["--what", "kept", "--image-size", "32"], "--image-size is not an option of --what kept"),
        (["--what", "kept", "--autocast", "bfloat16"], "--autocast is not an option of --what kept"),
    ],
)
def test_options_that_do_not_fit_are_refused(given, message, backbone, unlabelled):
    """Before any encoder runs."""
    parser = argparse.ArgumentParser()
    add_analysis_arguments(parser)
    images = ["--data-root", str(unlabelled)] if {"probes", "spectrum"} & {*given} else []
    with pytest.raises(ValueError, match=message):
        run_analyses(parser.parse_args([str(backbone), *given, *images]))


def test_a_work_directory_is_not_a_checkpoint(backbone, unlabelled):
    """The message names the checkpoint in it."""
    with pytest.raises(ValueError, match="epoch_2.pth$"):
        run_in_process([backbone.parent, "--what", "spectrum"], unlabelled)


@pytest.mark.slow
def test_probes_without_labels_are_one_line(backbone, unlabelled, run_tool):
    """Exit code 2; the line says why, and what works all the same."""
    arguments = [backbone, "--data-root", unlabelled, "--workers", "0", "--device", "cpu", "--what"]
    assert_one_line_error(run_tool("analyze", *arguments, "probes"), "probes need images with labels", "photos",
                          "--what spectrum needs none")
    assert run_tool("analyze", *arguments, "spectrum").returncode == 0
