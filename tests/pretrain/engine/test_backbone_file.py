"""Exchange of backbones: torchvision in, torchvision out, and every wrong file named."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
import torch
import torchvision

from pretrain.encoders import build_encoder
from pretrain.engine.backbone_file import RECORD_KEY, export_backbone, load_into, read_backbone
from pretrain.engine.checkpoints import CheckpointError
from pretrain.results.method import describe_method

RECORD = dict(method=describe_method("loco"), setting=dict(encoder=dict(type="resnet18"), epochs=1), repetition=dict(seed=0),
              config_sha256="0" * 64, git_revision=None, epoch=1, iter=10)


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


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_exchanges_weights_with_us(name, tmp_path):
    """A torchvision file loads (its fc is a known extra), and our stages equal torchvision's own forward pass."""
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().eval()
    torch.save(reference.state_dict(), tmp_path / "tv.pth")
    encoder = build_encoder(name).eval()
    load_into(encoder, read_backbone(tmp_path / "tv.pth"), expected=name)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
        for stage, features in zip("1234", encoder(images).values(), strict=True):
            x = getattr(reference, f"layer{stage}")(x)
            torch.testing.assert_close(features, x, rtol=1e-6, atol=1e-6)
    missing, unexpected = reference.load_state_dict(encoder.state_dict(), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])


def test_export_and_import(training_checkpoint, tmp_path, encoder):
    """The exported file holds exactly the encoder's weights and the record, and loads with weights_only=True."""
    meta = export_backbone(training_checkpoint, tmp_path / "out" / "backbone.pth")
    content = torch.load(tmp_path / "out" / "backbone.pth", weights_only=True)
    assert content["meta"] == meta
    assert {key: meta[key] for key in RECORD} == RECORD
    assert content["state_dict"].keys() == encoder.state_dict().keys()
    torch.manual_seed(1)
    other = build_encoder("resnet18")
    load_into(other, read_backbone(tmp_path / "out" / "backbone.pth"), expected="resnet18")
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), encoder.state_dict().values(), strict=True))


def test_a_file_of_another_version_is_told(training_checkpoint, tmp_path):
    """A newer one is refused; one of version 1, whose method was a word, is a file of unknown pretraining."""
    meta = export_backbone(training_checkpoint, tmp_path / "b.pth")
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    torch.save({**content, "meta": {**meta, "version": 99}}, tmp_path / "newer.pth")
    with pytest.raises(CheckpointError, match="version 99"):
        read_backbone(tmp_path / "newer.pth")
    torch.save({**content, "meta": {**meta, "version": 1, "method": "loco"}}, tmp_path / "older.pth")
    assert read_backbone(tmp_path / "older.pth").meta == {}


def test_a_training_checkpoint_loads_without_export(training_checkpoint, encoder):
    """The same file that a run leaves can be handed on; its heads are a known extra."""
    backbone = read_backbone(training_checkpoint)
    load_into(build_encoder("resnet18"), backbone, expected="resnet18")
    assert backbone.meta == RECORD


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
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "dict.pth")
    for name, reason in [("cut", "truncated"), ("text", "not a checkpoint"), ("empty", "truncated"), ("list", "not a dict"),
                         ("dict", "no weights"), ("absent", "does not exist")]:
        with pytest.raises(CheckpointError, match=reason) as error:
            read_backbone(tmp_path / f"{name}.pth")
        assert f"{name}.pth" in str(error.value)


def test_a_folder_is_told_with_its_newest_checkpoint(tmp_path):
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


@pytest.mark.parametrize("content", [{"state_dict": {"a": 1}}, {"meta": None, "state_dict": {}}, {1: 2}])
def test_strange_contents_are_named(tmp_path, content):
    """No traceback of ours, whatever the file holds."""
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="odd.pth holds no weights"):
        read_backbone(tmp_path / "odd.pth")


def test_only_training_checkpoints_are_exported(tmp_path, encoder):
    """A bare state dict has no record of its origin."""
    torch.save(encoder.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="not a pretraining checkpoint"):
        export_backbone(tmp_path / "bare.pth", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()
