"""The encoder that is read out: loading, pooling, and the guard that it stays bit-identical."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import RECORD_KEY
from pretrain.eval.encoders import (
    SUPERVISED_FILES,
    EncoderChangedError,
    PooledFeatures,
    block_names,
    choose_stages,
    frozen,
    load_encoder,
    pretraining_image_size,
    source_of_weights,
    weights_sha256,
)
from pretrain.learner import LocalContrastiveLearner
from pretrain.results.method import foreign_method, random_identity
from tests.pretrain.eval.written import identity_of_config

SMALL = dict(type="resnet18", stem="small")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_encoder(SMALL)


def test_random_encoders_are_a_function_of_the_seed():
    """Same seed, same weights, whatever the generator's state, which stays as it was."""
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, origin = load_encoder("random", SMALL, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert weights_sha256(first) == weights_sha256(load_encoder("random", SMALL, seed=1)[0])
    assert weights_sha256(first) != weights_sha256(load_encoder("random", SMALL, seed=2)[0])
    assert origin == dict(file="random", sha256=None, identity=random_identity(SMALL, 1))


def test_a_training_checkpoint_brings_its_encoder_and_record(encoder, tmp_path):
    """No --encoder is needed; the identity is that of the record, with how far the run had come."""
    identity = identity_of_config("pretrain/loco_resnet18_cifar10.py", epochs=9, seed=4)
    record = {**identity, "epoch": 3, "iter": 30}
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"state_dict": weights, RECORD_KEY: record}, tmp_path / "epoch_3.pth")
    loaded, origin = load_encoder(str(tmp_path / "epoch_3.pth"), None, seed=0)
    assert weights_sha256(loaded) == weights_sha256(encoder)
    assert origin["identity"] == {**identity, "setting": {**identity["setting"], "epochs_done": 3}}
    assert (origin["identity"]["setting"]["encoder"], origin["file"]) == (SMALL, "epoch_3.pth")
    with pytest.raises(ValueError, match="resnet50 is needed"):
        load_encoder(str(tmp_path / "epoch_3.pth"), "resnet50", seed=0)


def test_files_without_a_record_need_the_encoders_name(encoder, tmp_path):
    """The supervised baseline is one; if it is missing the message says where to get it."""
    torch.save(encoder.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="--encoder"):
        load_encoder(str(tmp_path / "bare.pth"), None, seed=0)
    origin = load_encoder(str(tmp_path / "bare.pth"), SMALL, seed=0)[1]
    assert origin["identity"] == dict(
        method=foreign_method("file", "bare"), setting=dict(encoder=SMALL, weights=origin["sha256"][:8]), repetition={})
    with pytest.raises(ValueError, match="https://download.pytorch.org/models/resnet50-19c8e357.pth"):
        load_encoder(str(tmp_path / "resnet50-19c8e357.pth"), "resnet50", seed=0)
    with pytest.raises(ValueError, match="random encoder needs --encoder"):
        load_encoder("random", None, seed=0)


def test_pooled_features_are_means_of_the_learners_maps(encoder):
    """The encoder sees images normalised as in its pretraining, and every stage is pooled over its pixels."""
    learner = LocalContrastiveLearner(SMALL, "simclr").eval()
    learner.encoder.load_state_dict(encoder.state_dict())
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    pooled = PooledFeatures(encoder.eval(), choose_stages(encoder, "all"))
    found = pooled(images)
    expected = {name: maps.mean((2, 3)) for name, maps in learner(images).items()}
    assert {name: x.shape[1] for name, x in found.items()} == pooled.widths == dict(res2=64, res3=128, res4=256, res5=512)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert list(PooledFeatures(encoder, choose_stages(encoder, "last"))(images)) == ["res5"]


def test_bfloat16_features_are_close_and_come_in_float32(encoder):
    """Autocast rounds; what heads and neighbours get is float32 all the same."""
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    exact, rounded = (PooledFeatures(encoder.eval(), ("res2",), autocast)(images)["res2"] for autocast in (None, "bfloat16"))
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.02)


def test_the_fingerprint_ignores_memory_order_and_sees_every_bit(encoder):
    """Channels-last is the same encoder; one bit of one counter is another."""
    before = weights_sha256(encoder)
    assert weights_sha256(encoder.to(memory_format=torch.channels_last)) == before
    encoder.layer4[1].bn2.num_batches_tracked += 1
    assert weights_sha256(encoder) != before


def test_the_guard_accepts_reading_and_holds_eval_mode(encoder):
    """A forward pass within it changes neither weights nor batch norm statistics, and builds no graph."""
    encoder.train()
    with frozen(encoder):
        assert not encoder(torch.randn(2, 3, 16, 16))["res5"].requires_grad


@pytest.mark.parametrize("change", ["batch norm", "weight"])
def test_the_guard_fires(encoder, change):
    """A forward pass in train mode, and a step on one weight, are both found out."""
    with pytest.raises(EncoderChangedError, match="not bit-identical"), frozen(encoder):
        if change == "batch norm":
            encoder.train()(torch.randn(2, 3, 16, 16))
        else:
            encoder.layer1[0].conv1.weight[0, 0, 0, 0] += 1e-6


@pytest.mark.parametrize(
    ("config", "expected"),
    [("loco_resnet50_imagenet", 224), ("loco_resnet18_cifar10", 32), ("loco_resnet18_demo", 40)],
)
def test_the_size_of_the_pretraining_is_found_in_its_setting(config, expected):
    """Of views made by the data set as well as on the device; nothing is guessed where there is none."""
    assert pretraining_image_size(identity_of_config(f"pretrain/{config}.py")["setting"]) == expected
    assert pretraining_image_size(dict(encoder=SMALL)) is None


def test_supervised_weights_are_known_by_their_hash():
    """The paper's file and torchvision's newer ones, whatever they are called; all else is somebody's file."""
    (name,) = SUPERVISED_FILES
    assert source_of_weights(name.removeprefix("resnet50-").removesuffix(".pth") + "0" * 56) == "supervised"
    assert source_of_weights("f37072fd" + "0" * 56) == "supervised"  # resnet18-f37072fd.pth
    assert source_of_weights("0" * 64) == "file"


def test_blocks_are_pooled_in_the_same_pass(encoder):
    """Features after every block are those that hooks see in a plain forward pass, whatever the order of the names."""
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    names = block_names(encoder)
    assert list(names) == ["res2.1", "res2.2", "res3.1", "res3.2", "res4.1", "res4.2", "res5.1", "res5.2"]
    pooled, seen, passes = PooledFeatures(encoder.eval(), [*reversed(names), "res3"]), {}, Counter()
    for name, block in names.items():
        def note(_, __, output, name=name):
            seen[name], passes[name] = output.mean((2, 3)), passes[name] + 1
        encoder.get_submodule(encoder.block_layers[block][-1]).register_forward_hook(note)
    found = pooled(images)
    assert set(passes.values()) == {1}
    assert list(found) == list(pooled.blocks) and pooled.blocks["res3"] == pooled.blocks["res3.2"] == 3
    assert torch.equal(found["res3"], found["res3.2"])
    assert {name: x.shape[1] for name, x in found.items()} == pooled.widths
    seen.clear()
    encoder((images.float() - pooled.mean) / pooled.std)
    for name, expected in seen.items():
        torch.testing.assert_close(found[name], expected)
