"""Evaluations from files to records, through the library and through the tool."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torchvision import datasets

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import FORMAT, FORMAT_VERSION
from pretrain.errors import RunFailedError
from pretrain.eval.evaluate import evaluate, protocol_options, recorded_options
from pretrain.results.method import random_identity
from pretrain.results.store import read_rows
from tests.conftest import assert_one_line_error
from tests.pretrain.eval.synthetic import write_class_folders
from tests.pretrain.eval.written import identity_of_config

pytestmark = pytest.mark.repository

SMALL = dict(type="resnet18", stem="small", width=8)
IDENTITY = identity_of_config("pretrain/loco_resnet18_cifar10.py", epochs=2, seed=3, model__encoder=SMALL)
META = dict(format=FORMAT, version=FORMAT_VERSION, epoch=2, iter=8, **IDENTITY)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    torch.save({"state_dict": build_encoder(SMALL).state_dict(), "meta": META}, tmp_path / "epoch_2.pth")
    return tmp_path / "epoch_2.pth"


def run(file, root, protocol="knn", **options):
    """On class folders of 16 pixels, in this process."""
    common = dict(data_root=str(root), image_size=16, workers=0, device="cpu", stage="last", batch_size=6)
    return evaluate(str(file), protocol, **{**common, **options})


def accuracies(record) -> list[tuple]:
    return [(row["stage"], row["metric"], row["value"]) for row in record["rows"]]


def test_the_record_says_what_was_evaluated(backbone, classes):
    """Beside the checkpoint: the pretraining, the protocol, the data and the accuracies; and the same as is returned."""
    record = run(backbone, classes, k=5, seed=5, stage="all")
    written = backbone.with_name("epoch_2.eval") / "knn_colours.json"
    assert json.loads(written.read_text()) == json.loads(json.dumps(record))
    assert (record["method"], record["setting"]) == (IDENTITY["method"], IDENTITY["setting"])
    assert record["repetition"] == dict(seed=3, evaluation_seed=5)
    assert record["encoder_file"]["file"] == "epoch_2.pth" and len(record["encoder_file"]["sha256"]) == 64
    data = dict(source="folder", train_split="train", test_split="val", train_images=18, test_images=6, classes=3,
                limit=None, fingerprint=record["data"]["fingerprint"])
    assert record["protocol"] == dict(name="knn", k=5, temperature=0.07, similarity="cosine", augmentation=None,
                                      image_size=16, autocast=None, data=data)
    assert record["data"] == dict(**data, options={}, root="colours")
    assert record["corrupt"] == dict(train=0, test=0)
    assert [(row["stage"], row["metric"]) for row in record["rows"]] == [
        (stage, "top1") for stage in ("res2", "res3", "res4", "res5")]
    assert all(row["dataset"] == "colours" and row["protocol"] == "knn" and 0 <= row["value"] <= 100
               for row in record["rows"])
    assert record["details"]["res5"] == dict(k=5)
    frame, records, warnings = read_rows([backbone.parent])
    assert (len(frame), len(records), warnings) == (4, 1, [])
    assert frame.loc[frame["last_stage"], "stage"].tolist() == ["res5"]


@pytest.mark.parametrize(("protocol", "name", "options"), [
    ("linear", "linear", dict(epochs=1)), ("cached", "linear_cached", {}), ("adam", "linear_adam", dict(epochs=1)),
    ("finetune", "finetune", dict(epochs=1)),
])
def test_every_protocol_has_its_rows(protocol, name, options, backbone, classes):
    """Under the names that tables know."""
    record = run(backbone, classes, protocol, **options)
    assert (record["protocol"]["name"], record["stages"]) == (name, ["res5"])
    assert [(row["protocol"], row["metric"]) for row in record["rows"]] == [(name, "top1"), (name, "train_top1")]
    assert [file.name for file in backbone.with_name("epoch_2.eval").iterdir()] == [f"{name}_colours.json"]


def test_a_finished_result_is_kept_with_resume(backbone, classes):
    """The file's own numbers come back with it; without it they are computed again, and are the same."""
    first = run(backbone, classes, "linear", epochs=1)
    file = backbone.with_name("epoch_2.eval") / "linear_colours.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "duration_s": -1}))
    assert run(backbone, classes, "linear", epochs=1, resume=True)["duration_s"] == -1
    repeated = run(backbone, classes, "linear", epochs=1)
    assert accuracies(repeated) == accuracies(first)
    assert repeated["duration_s"] > 0
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_result_of_other_settings_is_not_overwritten(backbone, classes, tmp_path):
    """It gets another name, and with --out an error; a file that is not a result is left alone, too."""
    run(backbone, classes, k=5)
    folder = backbone.with_name("epoch_2.eval")
    before = (folder / "knn_colours.json").read_bytes()
    run(backbone, classes, k=7)
    run(backbone, classes, k=7, seed=1)
    run(backbone, classes, k=7)
    assert sorted(file.name for file in folder.iterdir()) == [
        "knn_colours.json", "knn_colours_2.json", "knn_colours_3.json"]
    assert (folder / "knn_colours.json").read_bytes() == before
    with pytest.raises(ValueError, match=r"not a result of these settings .protocol.k"):
        run(backbone, classes, k=9, out=str(folder / "knn_colours.json"))
    (tmp_path / "mine.json").write_text("notes")
    with pytest.raises(ValueError, match="mine.json exists"):
        run(backbone, classes, out=str(tmp_path / "mine.json"))
    content = torch.load(backbone)
    content["state_dict"]["conv1.weight"] += 1
    torch.save(content, backbone)
    with pytest.raises(ValueError, match="sha256"):
        run(backbone, classes, k=5, out=str(folder / "knn_colours.json"))


def test_random_encoders_are_repetitions_by_their_seed(classes, tmp_path, monkeypatch):
    """Whose seed is the evaluation's; a subset of the images is part of the protocol. Records go below work_dirs."""
    monkeypatch.chdir(tmp_path)
    record = run("random", classes, encoder="resnet18", encoder_options=dict(stem="small", width=8), seed=2, limit=6, k=3)
    assert {key: record[key] for key in ("method", "setting", "repetition")} == random_identity(SMALL, 2)
    assert record["encoder_file"] == dict(file="random", sha256=None)
    assert (record["protocol"]["data"]["limit"], record["protocol"]["data"]["train_images"]) == (6, 6)
    assert (tmp_path / "work_dirs/eval/random_resnet18_small_8_seed2.eval/knn_colours.json").is_file()


def test_a_diverged_evaluation_has_no_result(backbone, classes):
    """One epoch at an absurd learning rate, on a real encoder."""
    with pytest.raises(RunFailedError, match="training diverged in epoch 1"):
        run(backbone, classes, "linear", epochs=1, batch_size=18, lr=1e30)
    assert not list(backbone.parent.rglob("*.json"))


def test_the_image_size_is_that_of_the_pretraining(backbone, tmp_path):
    """Unless another is asked for; an encoder without a record is evaluated at 224."""
    content = torch.load(backbone)
    content["meta"]["setting"] = {**IDENTITY["setting"], "image_size": 20}
    torch.save(content, tmp_path / "small.pth")
    few = write_class_folders(tmp_path / "few", train=3, test=3)
    for file, encoder, asked, expected in ((tmp_path / "small.pth", None, None, 20), (tmp_path / "small.pth", None, 16, 16),
                                           ("random", SMALL, None, 224)):
        record = run(file, few, encoder=encoder, image_size=asked, out=str(tmp_path / f"{expected}.json"))
        assert record["protocol"]["image_size"] == expected


def test_options_of_protocols():
    """The papers' are the defaults; a learning rate is in proportion to the batch; what does not fit is refused."""
    defaults = {name: recorded_options(*protocol_options(name)) for name in ("linear", "adam", "cached", "knn")}
    assert {**defaults["linear"], "augmentation": ""} == dict(
        epochs=100, batch_size=256, lr=30, momentum=0, weight_decay=0, lr_drops=[0.3, 0.6, 0.9], augmentation="")
    assert defaults["adam"] == dict(epochs=200, batch_size=256, lr=1e-3, weight_decay=1e-6, augmentation=None)
    assert "batch_size" not in {**defaults["cached"], **defaults["knn"]}
    assert [protocol_options(name, batch_size=512)[1]["lr"] for name in ("linear", "finetune", "adam")] == [60, 0.1, 1e-3]
    assert protocol_options("linear", batch_size=512, lr=1.0)[1]["lr"] == 1
    assert protocol_options("adam", weight_decay=0)[1]["weight_decay"] == 0
    for protocol, options in (("linear", dict(epochs=0)), ("knn", dict(k=0)), ("adam", dict(weight_decay=-1.0)),
                              ("knn", dict(epochs=3)), ("cached", dict(lr=1.0)), ("linear", dict(lr=float("inf")))):
        with pytest.raises(ValueError, match=next(iter(options)).replace("_", ".")):
            protocol_options(protocol, **options)
    with pytest.raises(ValueError, match="paper"):
        protocol_options("paper")


@pytest.mark.slow
def test_the_tool_end_to_end(classes, tmp_path, run_tool):
    """A random encoder on a list of labelled images: JSON alone on stdout and in the file; options reach the record."""
    for split in ("train", "val"):
        files = sorted((classes / split).rglob("*.png"))
        lines = [f"{file.relative_to(classes)} {file.parent.name[-1]}\n" for file in files]
        (classes / f"{split}.txt").write_text("".join(lines))
    arguments = ["random", "--encoder", "resnet18", "--encoder-options", "stem=small", "width=8", "--data-root", classes,
                 "--data", "file_list", "--data-options", "file={split}.txt", "classes=class0,class1,class2", "--image-size",
                 "16", "--protocol", "knn", "--k", "3", "--device", "cpu", "--out", tmp_path / "knn.json"]
    finished = run_tool("evaluate", *arguments)
    assert finished.returncode == 0, finished.stderr
    record = json.loads(finished.stdout)
    assert record == json.loads((tmp_path / "knn.json").read_text())
    assert (record["protocol"]["name"], record["protocol"]["k"], record["setting"]["encoder"]) == ("knn", 3, SMALL)
    assert record["data"]["options"] == dict(file="{split}.txt", classes=["class0", "class1", "class2"])
    assert record["argv"][1:] == [str(argument) for argument in arguments]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["random", "--encoder", "resnet19"], ["unknown encoder 'resnet19'", "resnet18"]),
        (["random", "--encoder", "resnet18", "--protocol", "cached", "--epochs", "3"], ["--epochs", "cached"]),
    ],
)
def test_bad_input_is_one_line(arguments, parts, classes, run_tool):
    """Exit code 2 and one line with the value and the fix."""
    assert_one_line_error(run_tool("evaluate", *arguments, "--data-root", classes), *parts)


def test_stl10_is_trained_on_its_labelled_images(tmp_path, monkeypatch):
    """The split "train", of 5,000 in the published files, whatever unlabelled images lie beside it."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part, count in dict(train=20, test=10, unlabeled=40).items():
        np.random.default_rng(count).integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("\n".join(f"class{i}" for i in range(10)))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    record = run("random", tmp_path, "adam", data="stl10", encoder=SMALL, epochs=1, out=str(tmp_path / "result.json"))
    assert {row["metric"] for row in record["rows"]} == {"top1", "top5", "train_top1"}
    expected = dict(train_split="train", test_split="test", train_images=20, test_images=10, classes=10)
    assert expected.items() <= record["data"].items()
