"""Evaluations from files to records, through the library and through the tools."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import FORMAT, FORMAT_VERSION
from pretrain.errors import RunFailedError
from pretrain.eval.encoders import EncoderChangedError
from pretrain.eval.evaluate import Readout, find_device, read_out
from pretrain.eval.knn import NearestNeighbours
from pretrain.eval.linear_probe import LinearProbe
from pretrain.eval.results import result_file
from pretrain.results.method import random_identity
from pretrain.results.store import read_rows
from tests.conftest import assert_one_line_error
from tests.pretrain.eval.drawn import write_class_folders, write_shards
from tests.pretrain.eval.written import identity_of_config

SMALL = dict(type="resnet18", stem="small")
IDENTITY = identity_of_config("pretrain/loco_resnet18_cifar10.py", epochs=2, seed=3)
META = dict(format=FORMAT, version=FORMAT_VERSION, epoch=2, iter=8, **IDENTITY)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    torch.save({"state_dict": build_encoder(SMALL).state_dict(), "meta": META}, tmp_path / "epoch_2.pth")
    return tmp_path / "epoch_2.pth"


def readout(file, root, **options) -> Readout:
    """On class folders of 16 pixels, in this process."""
    return Readout(**{**dict(file=str(file), source="folder", data_root=str(root), image_size=16, workers=0, device="cpu"),
                      **options})


def accuracies(record) -> list[tuple]:
    return [(row["stage"], row["metric"], row["value"]) for row in record["rows"]]


@pytest.mark.slow
def test_the_record_says_what_was_evaluated(backbone, classes):
    """Beside the checkpoint: the pretraining, the protocol, the data and the accuracies; and the same as is returned."""
    record = read_out(readout(backbone, classes, seed=5), NearestNeighbours(k=5, batch_size=8))
    written = backbone.with_name("epoch_2.readout") / "knn_colours.json"
    assert json.loads(written.read_text()) == json.loads(json.dumps(record))
    assert (record["method"], record["setting"]) == (IDENTITY["method"], IDENTITY["setting"])
    assert record["repetition"] == dict(seed=3, evaluation_seed=5)
    assert record["encoder_file"]["file"] == "epoch_2.pth" and len(record["encoder_file"]["sha256"]) == 64
    data = dict(source="folder", train_split="train", test_split="val", train_images=18, test_images=6, classes=3,
                limit=None, fingerprint=record["data"]["fingerprint"])
    assert record["protocol"] == dict(name="knn", k=5, temperature=0.07, similarity="cosine", augmentation=None,
                                      image_size=16, autocast=None, data=data)
    assert record["data"] == dict(**data, options={}, root="colours")
    assert record["data_root"] == str(classes)
    assert record["corrupt"] == dict(train=0, test=0)
    assert [(row["stage"], row["metric"]) for row in record["rows"]] == [
        (stage, "top1") for stage in ("res2", "res3", "res4", "res5")]
    assert all(row["dataset"] == "colours" and row["protocol"] == "knn" and 0 <= row["value"] <= 100
               for row in record["rows"])
    assert record["details"]["res5"] == dict(k=5)
    assert record["duration_s"] > 0 and record["images_per_s"] > 0
    frame, records, warnings = read_rows([backbone.parent])
    assert (len(frame), len(records), warnings) == (4, 1, [])
    assert frame.loc[frame["last_stage"], "stage"].tolist() == ["res5"]


@pytest.mark.slow
def test_a_finished_result_is_kept_with_resume(backbone, classes):
    """The file's own numbers come back with it; without it they are computed again, and are the same."""
    first = read_out(readout(backbone, classes, stages="last"), LinearProbe(epochs=1, batch_size=6))
    assert [metric for _, metric, _ in accuracies(first)] == ["top1", "train_top1"]  # of 3 classes, so without top5
    file = backbone.with_name("epoch_2.readout") / "linear_colours.json"
    marked = {**json.loads(file.read_text()), "duration_s": -1}
    file.write_text(json.dumps(marked))
    again = read_out(readout(backbone, classes, stages="last", resume=True), LinearProbe(epochs=1, batch_size=6))
    assert again["duration_s"] == -1
    repeated = read_out(readout(backbone, classes, stages="last"), LinearProbe(epochs=1, batch_size=6))
    assert accuracies(repeated) == accuracies(first)
    assert repeated["duration_s"] > 0
    assert not list(file.parent.glob("*.state.pth"))


@pytest.mark.slow
def test_a_result_of_other_settings_is_not_overwritten(backbone, classes, tmp_path):
    """With --resume and without: what differs is named. A file that is not a result is left alone, too."""
    read_out(readout(backbone, classes, stages="last"), NearestNeighbours(k=5, batch_size=8))
    file = backbone.with_name("epoch_2.readout") / "knn_colours.json"
    before = file.read_bytes()
    for resume in (False, True):
        for options, k, keys in (
            (dict(), 5, "stages"), (dict(stages="last", image_size=24), 5, "protocol.image_size"),
            (dict(stages="last", seed=1), 7, "protocol.k, repetition.evaluation_seed"),
        ):
            with pytest.raises(ValueError, match=f"{file.name} .*differing keys: {keys};"):
                read_out(readout(backbone, classes, **options, resume=resume), NearestNeighbours(k=k, batch_size=8))
    content = torch.load(backbone)
    content["state_dict"]["conv1.weight"] += 1
    torch.save(content, backbone)
    with pytest.raises(ValueError, match="differing keys: sha256;"):
        read_out(readout(backbone, classes, stages="last"), NearestNeighbours(k=5, batch_size=8))
    assert file.read_bytes() == before
    for content in ("[]", "notes", '{"data": {}}'):
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(ValueError, match="mine.json exists"):
            read_out(readout(backbone, classes, out=str(tmp_path / "mine.json")), NearestNeighbours(batch_size=8))
        assert (tmp_path / "mine.json").read_text() == content


def test_random_encoders_are_repetitions_by_their_seed(classes, tmp_path):
    """Whose seed is the evaluation's; a subset of the training images is part of the protocol."""
    options = dict(encoder=SMALL, seed=2, limit=6, stages="last", out=str(tmp_path / "result.json"))
    record = read_out(readout("random", classes, **options), NearestNeighbours(k=3, batch_size=8))
    assert {key: record[key] for key in ("method", "setting", "repetition")} == random_identity(SMALL, 2)
    assert record["encoder_file"] == dict(file="random", sha256=None)
    assert (record["protocol"]["data"]["limit"], record["protocol"]["data"]["train_images"]) == (6, 6)


@pytest.mark.slow
def test_a_diverged_evaluation_has_no_result(backbone, classes):
    """One epoch at an absurd learning rate, on a real encoder."""
    with pytest.raises(RunFailedError, match="training diverged in epoch 1"):
        read_out(readout(backbone, classes, stages="last"), LinearProbe(epochs=1, batch_size=18, lr=1e30))
    assert not list(backbone.parent.rglob("*.json"))


@pytest.mark.slow
def test_the_image_size_is_that_of_the_pretraining(backbone, tmp_path):
    """Unless another is asked for; an encoder without a record is evaluated at 224."""
    content = torch.load(backbone)
    content["meta"]["setting"] = {**IDENTITY["setting"], "image_size": 20}
    torch.save(content, tmp_path / "small.pth")
    few = write_class_folders(tmp_path / "few", train=3, test=3)
    for file, encoder, asked, expected in ((tmp_path / "small.pth", None, None, 20), (tmp_path / "small.pth", None, 16, 16),
                                           ("random", "resnet18", None, 224)):
        options = dict(encoder=encoder, stages="last", image_size=asked, out=str(tmp_path / f"{expected}.json"))
        record = read_out(readout(file, few, **options), NearestNeighbours(batch_size=3))
        assert record["protocol"]["image_size"] == expected


def test_an_unwritable_result_is_refused_before_the_work(backbone, classes, tmp_path):
    """Where a file is in the folder's place, and where a folder is in the file's."""
    (tmp_path / "file").write_text("")
    method = NearestNeighbours(batch_size=0.5)  # fails when it loads a batch
    with pytest.raises(ValueError, match="result.json cannot be written"):
        read_out(readout(backbone, classes, out=str(tmp_path / "file" / "result.json")), method)
    with pytest.raises(ValueError, match="is a folder"):
        read_out(readout(backbone, classes, out=str(tmp_path)), method)


@dataclass(frozen=True)
class Meddler(NearestNeighbours):
    """A method that trains what it must only look at."""

    def run(self, session):
        """See :class:`~pretrain.eval.session.Method`."""
        session.encoder.train()(torch.randn(2, 3, 16, 16))
        return super().run(session)


def test_no_result_of_a_changed_encoder_is_written(backbone, classes):
    """The guard is in the way of the result file."""
    with pytest.raises(EncoderChangedError, match="not bit-identical"):
        read_out(readout(backbone, classes), Meddler(batch_size=8))
    assert not list(backbone.parent.rglob("*.json"))


def test_results_have_names_of_their_own():
    """By data set, limit and seed; random encoders below work_dirs."""
    folder, named = (dict(source=source, root="pets", limit=limit) for source, limit in (("folder", None), ("cifar10", 100)))
    assert result_file("knn", "runs/epoch_9.pth", SMALL, folder, 3) == Path("runs/epoch_9.readout/knn_pets.json")
    assert result_file("linear", "b.pth", SMALL, named, 3) == Path("b.readout/linear_cifar10_100images_seed3.json")
    assert result_file("knn", "random", SMALL, folder, 3) == Path(
        "work_dirs/readout/random_resnet18_small_seed3.readout/knn_pets.json")
    assert result_file("analysis_memory", "configs/mine.py", SMALL, None, 0) == Path(
        "work_dirs/readout/mine.readout/analysis_memory.json")
    timm = dict(type="TimmEncoder", name="convnext_tiny")
    assert "random_TimmEncoder_convnext_tiny_seed0.readout" in str(result_file("knn", "random", timm, folder, 0))


def test_options_and_devices_are_checked(tmp_path):
    """Each with the value and its bounds."""
    for options, message in ((dict(image_size=4), "image_size is 4"), (dict(seed=-1), "seed is -1"),
                             (dict(workers=-2), "workers is -2"), (dict(limit=0), "limit is 0")):
        with pytest.raises(ValueError, match=message):
            readout("random", tmp_path, **options)
    with pytest.raises(ValueError, match="device 'gpu' cannot be used"):
        find_device("gpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.slow
def test_the_tools_end_to_end(classes, tmp_path, run_tool):
    """A random encoder on a drawn labelled folder: JSON alone on stdout, the same in the file."""
    common = ["random", "--encoder", "resnet18", "--encoder-options", "stem=small", "--data-root", classes, "--image-size",
              "16", "--batch-size", "9", "--workers", "1", "--device", "cpu", "--out"]
    for name, file, more in (("linear_eval", "linear.json", ["--epochs", "1"]), ("knn_eval", "knn.json", ["--k", "3"])):
        finished = run_tool(name, *common, tmp_path / file, *more)
        assert finished.returncode == 0, finished.stderr
        record = json.loads(finished.stdout)
        assert record == json.loads((tmp_path / file).read_text())
        assert record["protocol"]["name"] == file.removesuffix(".json")
        assert record["setting"]["encoder"] == SMALL
        assert record["argv"][1:] == [str(argument) for argument in (*common, tmp_path / file, *more)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["resnet50-19c8e357.pth", "--encoder", "resnet50"], ["https://download.pytorch.org/models/resnet50-19c8e357.pth"]),
        (["random", "--encoder", "resnet18", "--protocol", "finetune", "--batch-size", "1"], ["batch norm", "at least 2"]),
        (["random", "--encoder", "resnet18", "--data", "file_list"], ["file_list", "file"]),
        (["random", "--encoder", "resnet19"], ["unknown encoder 'resnet19'", "resnet18"]),
        (["random", "--encoder", "resnet18", "--protocol", "cached", "--epochs", "3"], ["--epochs", "cached"]),
    ],
)
def test_bad_input_is_one_line(arguments, parts, classes, run_tool):
    """Exit code 2 and one line that names the value and the mend."""
    assert_one_line_error(run_tool("linear_eval", *arguments, "--data-root", classes), *parts)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--encoder-options", "--data-options"])
@pytest.mark.parametrize(("pair", "reason"), [
    ("stem", "'stem' is not of the form key=value"), ("a=(1,2", "Imbalanced"),
    ("a={b:[1,2]}", "'a={b:[1,2]}' cannot be read; a dict is"),
])
def test_options_that_are_not_pairs_are_refused(option, pair, reason, run_tool):
    """In argparse's words, with the option's name."""
    finished = run_tool("knn_eval", "random", "--encoder", "resnet18", option, pair)
    assert finished.returncode == 2
    assert f"error: argument {option}: {reason}" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_lists_and_shards_end_to_end(tmp_path, run_tool):
    """Their options reach them from the command line, and the record."""
    root = write_class_folders(tmp_path / "colours", train=6, test=3)
    for split in ("train", "val"):
        files = sorted((root / split).rglob("*.png"))
        (root / f"{split}.txt").write_text("".join(f"{file.relative_to(root)} {file.parent.name[-1]}\n" for file in files))
    write_shards(tmp_path / "shards", train=6, test=3)
    common = ["random", "--encoder", "resnet18", "--encoder-options", "stem=small", "--image-size", "16", "--workers", "0",
              "--device", "cpu", "--stages", "last", "--k", "1"]
    cases = [("file_list", root, ["file={split}.txt", "classes=class0,class1,class2"],
              dict(file="{split}.txt", classes=["class0", "class1", "class2"])),
             ("webdataset", tmp_path / "shards", ["shards={0..0}.tar", "classes=4"], dict(shards="{0..0}.tar", classes=4))]
    for source, folder, given, options in cases:
        finished = run_tool("knn_eval", *common, "--data", source, "--data-root", folder, "--data-options", *given, "--out",
                            tmp_path / f"{source}.json")
        assert finished.returncode == 0, finished.stderr
        data = json.loads(finished.stdout)["data"]
        assert (data["source"], data["options"], data["train_images"], data["test_images"]) == (source, options, 6, 3)
        assert data["classes"] == (3 if source == "file_list" else 4)
