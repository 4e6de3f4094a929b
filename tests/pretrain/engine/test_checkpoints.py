"""Checkpoint files: order, damage of every kind, atomic writes; export of backbones and every wrong file refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path, PurePosixPath

import pytest
import torch

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import (
    RANDOM_STATES_KEY,
    RECORD_KEY,
    CheckpointError,
    checkpoint_files,
    checkpoint_name,
    complete,
    export_backbone,
    load_into,
    newest_intact,
    partial_path,
    read_backbone,
    remove_partial,
    remove_superseded,
)
from pretrain.results.method import describe_method

RECORD = dict(method=describe_method("loco"), setting=dict(encoder=dict(type="resnet18"), epochs=1), repetition=dict(seed=0),
              config_sha256="0" * 64, git_revision=None, epoch=1, iter=10)


def write(folder: Path, *names: str) -> list[Path]:
    """Small checkpoints with all that a resume needs."""
    content = {"state_dict": {"w": torch.arange(5000.0)}, "optimizer": {}, "meta": {}, RANDOM_STATES_KEY: []}
    for name in names:
        torch.save(content, folder / name)
    return [folder / name for name in names]


def names_in(folder: Path) -> list[str]:
    return [file.name for file in checkpoint_files(folder)]


def test_the_newest_comes_first_by_epoch_and_iteration(tmp_path):
    """Numbers are compared as numbers; a checkpoint within an epoch is newer than the one it began with; others are none."""
    expected = ["epoch_10.pth", "epoch_9_iter_100.pth", "epoch_9_iter_99.pth", "epoch_9.pth", "epoch_2.pth"]
    others = ["epoch_x.pth", "best.pth", ".epoch_11.pth.partial", "epoch_12.pth.partial", "last_checkpoint"]
    for name in sorted([*expected, *others]):
        (tmp_path / name).touch()
    assert names_in(tmp_path) == expected
    assert (checkpoint_name(9), checkpoint_name(9, 99)) == ("epoch_9.pth", "epoch_9_iter_99.pth")


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def flip_a_bit(file: Path) -> None:
    """Of a weight: torch itself loads such a file."""
    content = bytearray(file.read_bytes())
    content[content.index(torch.arange(5000.0).numpy().tobytes()) + 8000] ^= 1
    file.write_bytes(content)
    assert "state_dict" in torch.load(file)


def need_code(file: Path) -> None:
    torch.save({**torch.load(file), "optimizer": Path("object")}, file)


def drop_the_optimizer(file: Path) -> None:
    content = torch.load(file)
    del content["optimizer"]
    torch.save(content, file)


def pickle_plainly(file: Path) -> None:
    file.write_bytes(pickle.dumps({"state_dict": {}}))


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, need_code, drop_the_optimizer, pickle_plainly])
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, damage):
    """The two newest are damaged: both are named, and the third is found; without it, none is."""
    newest, second, third = write(tmp_path, "epoch_3.pth", "epoch_2_iter_25.pth", "epoch_2.pth")
    assert newest_intact(tmp_path) == (newest, [])
    damage(newest)
    damage(second)
    found, messages = newest_intact(tmp_path)
    assert found == third
    assert [str(file) in message for file, message in zip((newest, second), messages, strict=True)] == [True, True]
    third.unlink()
    assert newest_intact(tmp_path) == (None, messages)
    assert newest_intact(tmp_path / "missing") == (None, [])


def test_a_file_gets_its_name_when_it_is_complete(tmp_path):
    """Until then the old content stands; what was never completed can be cleared away."""
    path = tmp_path / "epoch_1.pth"
    path.write_text("old")
    partial_path(path).write_text("new")
    assert path.read_text() == "old"
    assert partial_path(path).parent == path.parent
    assert checkpoint_files(tmp_path) == [path]
    complete(path)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["epoch_1.pth"]
    partial_path(tmp_path / "epoch_2.pth").touch()
    (tmp_path / ".run.json.partial").touch()  # another module's
    assert remove_partial(tmp_path) == [".epoch_2.pth.partial"]
    assert sorted(os.listdir(tmp_path)) == [".run.json.partial", "epoch_1.pth"]


@pytest.mark.parametrize(
    ("newest", "max_keep", "stay"),
    [
        ("epoch_3.pth", 2, ["epoch_3.pth", "epoch_2.pth"]),
        ("epoch_3.pth", 1, ["epoch_3.pth"]),
        ("epoch_3.pth", -1, ["epoch_3.pth", "epoch_2.pth", "epoch_1.pth"]),
        ("epoch_3_iter_35.pth", 2, ["epoch_3_iter_35.pth", "epoch_3.pth", "epoch_2.pth"]),
        # a run resumed from epoch 2 because epoch_3.pth is damaged: that will be overwritten, and takes nobody's place
        ("epoch_2_iter_25.pth", 2, ["epoch_3.pth", "epoch_2_iter_25.pth", "epoch_2.pth", "epoch_1.pth"]),
    ],
)
def test_what_a_new_checkpoint_makes_superfluous(tmp_path, newest, max_keep, stay):
    """All others within an epoch go, older and newer ones; of full epochs the newest few stay."""
    for name in {"epoch_1.pth", "epoch_2.pth", "epoch_2_iter_23.pth", "epoch_3.pth", "epoch_3_iter_31.pth", newest}:
        (tmp_path / name).touch()
    remove_superseded(tmp_path / newest, max_keep)
    assert names_in(tmp_path) == stay


@pytest.mark.parametrize("previous", ["epoch_1.pth", "epoch_2_iter_23.pth"])
def test_the_checkpoint_before_stays(tmp_path, previous):
    """Of either kind and whatever else is there: the newest may not be good, though it is complete."""
    names = ["epoch_3.pth", "epoch_2_iter_25.pth", "epoch_2_iter_23.pth", "epoch_1.pth"]
    for name in names:
        (tmp_path / name).touch()
    remove_superseded(tmp_path / "epoch_3.pth", 1, tmp_path / previous)
    assert names_in(tmp_path) == ["epoch_3.pth", previous]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_encoder("resnet18")


@pytest.fixture
def training_checkpoint(tmp_path, encoder):
    """What a run of ours leaves, as far as it matters here."""
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    weights["heads.0.mlp.0.weight"] = torch.zeros(2, 2)
    weights["objectives.0.queue"] = torch.zeros(2, 2)
    torch.save({"state_dict": weights, RECORD_KEY: RECORD, "meta": {"epoch": 1}}, tmp_path / "epoch_1.pth")
    return tmp_path / "epoch_1.pth"


def test_export_and_import(training_checkpoint, tmp_path, encoder):
    """The exported file holds exactly the encoder's weights and the record, and loads with weights_only=True."""
    assert read_backbone(training_checkpoint).meta == RECORD  # the run's own file can be handed on, too
    meta = export_backbone(training_checkpoint, tmp_path / "out" / "backbone.pth")
    content = torch.load(tmp_path / "out" / "backbone.pth", weights_only=True)
    assert content["meta"] == meta
    assert {key: meta[key] for key in RECORD} == RECORD
    assert content["state_dict"].keys() == encoder.state_dict().keys()
    torch.manual_seed(1)
    other = build_encoder("resnet18")
    load_into(other, read_backbone(tmp_path / "out" / "backbone.pth"), expected="resnet18")
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), encoder.state_dict().values(), strict=True))


def test_files_of_other_versions(training_checkpoint, tmp_path):
    """A newer one is refused; one of version 1, whose method was a word, is a file of unknown pretraining."""
    meta = export_backbone(training_checkpoint, tmp_path / "b.pth")
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    torch.save({**content, "meta": {**meta, "version": 99}}, tmp_path / "newer.pth")
    with pytest.raises(CheckpointError, match="version 99"):
        read_backbone(tmp_path / "newer.pth")
    torch.save({**content, "meta": {**meta, "version": 1, "method": "loco"}}, tmp_path / "older.pth")
    assert read_backbone(tmp_path / "older.pth").meta == {}


def test_wrong_encoder_is_named(training_checkpoint, tmp_path):
    """Both encoders are in the message."""
    export_backbone(training_checkpoint, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="holds the encoder resnet18, but resnet50 is needed"):
        load_into(build_encoder("resnet50"), read_backbone(tmp_path / "b.pth"), expected="resnet50")


def test_missing_and_unexpected_keys_are_listed(tmp_path, encoder):
    """The first five of each kind are named, and nothing is loaded."""
    weights = dict(encoder.state_dict())
    for key in [key for key in weights if key.startswith("layer4.0")]:
        weights["other." + key] = weights.pop(key)
    weights["conv1.weight"] = torch.zeros(3)
    torch.save(weights, tmp_path / "w.pth")
    fresh = build_encoder("resnet18")
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_into(fresh, read_backbone(tmp_path / "w.pth"))
    text = str(error.value)
    assert str(tmp_path / "w.pth") in text
    assert "15 missing (layer4.0.bn1.bias, layer4.0.bn1.running_mean, " in text
    assert "18 unexpected (other.layer4.0.bn1.bias" in text
    assert text.count("layer4.0") == 10
    assert "1 of another shape (conv1.weight)" in text
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())


def test_truncated_foreign_and_absent_files_are_named(training_checkpoint, tmp_path):
    """Each says which file and why; none raises anything but CheckpointError."""
    content = training_checkpoint.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pth").write_text("no checkpoint at all")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "dict.pth")
    for name, reason in [("cut", "truncated"), ("text", "not a checkpoint"), ("list", "not a dict"),
                         ("dict", "no weights"), ("absent", "does not exist")]:
        with pytest.raises(CheckpointError, match=reason) as error:
            read_backbone(tmp_path / f"{name}.pth")
        assert f"{name}.pth" in str(error.value)


def test_a_folder_is_refused_with_its_newest_checkpoint(tmp_path):
    """By the numbers in the names; a work directory is easily passed for what lies in it."""
    with pytest.raises(CheckpointError, match=r"is a folder, .*; pass a checkpoint file$"):
        read_backbone(tmp_path)
    for name in ("epoch_9.pth", "epoch_10.pth", "epoch_10_iter_80.pth.partial"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"is a folder, .*; pass .*/epoch_10.pth$"):
        read_backbone(tmp_path)


def test_no_message_asks_for_unsafe_loading(tmp_path):
    """Torch's advice to load without ``weights_only`` is not passed on; which class is in the way is."""
    (tmp_path / "config.py").write_text("model = dict()")
    (tmp_path / "run.json").write_text('{"config": {}}')
    torch.save({"state_dict": {}, "when": PurePosixPath("a")}, tmp_path / "objects.pth")
    for name, reason in [("config.py", "torch.save has not written it"), ("run.json", "torch.save has not written it"),
                         ("objects.pth", "it holds objects of pathlib.*PurePosixPath, but only weights and plain data")]:
        with pytest.raises(CheckpointError, match=reason) as error:
            read_backbone(tmp_path / name)
        assert "weights_only" not in str(error.value) and "Weights only" not in str(error.value)


def test_files_from_before_batch_counters_load(tmp_path, encoder):
    """torchvision's resnet50-19c8e357.pth, the paper's supervised baseline, is one of them."""
    weights = {key: value for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pth")
    other = build_encoder("resnet18")
    load_into(other, read_backbone(tmp_path / "old.pth"))
    assert torch.equal(other.conv1.weight, encoder.conv1.weight)


def test_weights_that_are_not_finite_are_refused(tmp_path, encoder):
    """A diverged pretraining must not become a detector with AP 0."""
    weights = {key: value.clone() for key, value in encoder.state_dict().items()}
    weights["layer1.0.conv1.weight"][0] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"1 not finite \(layer1.0.conv1.weight\)"):
        load_into(build_encoder("resnet18"), read_backbone(tmp_path / "nan.pth"))


def test_encoder_weights_given_twice_are_refused(tmp_path, encoder):
    """One of them would silently win."""
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({**weights, "conv1.weight": weights["encoder.conv1.weight"] + 1}, tmp_path / "twice.pth")
    with pytest.raises(CheckpointError, match=r"1 unexpected \(<root>.conv1.weight\)"):
        load_into(build_encoder("resnet18"), read_backbone(tmp_path / "twice.pth"))


def test_only_training_checkpoints_are_exported(tmp_path, encoder):
    """A bare state dict has no record of its origin."""
    torch.save(encoder.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="not a pretraining checkpoint"):
        export_backbone(tmp_path / "bare.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
