"""The encoder that is evaluated: loading, pooling, extraction, and the guard that it stays bit-identical."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import RECORD_KEY
from pretrain.errors import RunFailedError
from pretrain.eval.features import (
    EncoderChangedError,
    PooledFeatures,
    block_names,
    extract_both,
    extract_features,
    find_device,
    frozen,
    load_encoder,
    source_of_weights,
    weights_sha256,
)
from pretrain.learner import LocalContrastiveLearner
from pretrain.results.method import foreign_method, random_identity
from tests.pretrain.eval.synthetic import PixelFeatures, small_features, synthetic_data
from tests.pretrain.eval.written import identity_of_config
from tests.pretrain.processes import run_in_processes

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
    pooled = PooledFeatures(encoder.eval(), tuple(encoder.stages))
    found = pooled(images)
    expected = {name: maps.mean((2, 3)) for name, maps in learner(images).items()}
    assert {name: x.shape[1] for name, x in found.items()} == pooled.widths == dict(res2=64, res3=128, res4=256, res5=512)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    assert list(PooledFeatures(encoder, ("res5",))(images)) == ["res5"]


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


def test_supervised_weights_are_known_by_their_hash():
    """The paper's file and torchvision's newer ones, whatever they are called."""
    assert source_of_weights("19c8e357" + "0" * 56) == "supervised"
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


def extract_pixels(corrupt: int):
    """Features of 101 images in this process's share of the work, gathered."""
    dataset = synthetic_data(train=101, corrupt=[corrupt]).train_images()
    found = extract_features(PixelFeatures(), dataset, 8, 0, torch.device("cpu"))
    return found.features["grid"].numpy(), found.labels.numpy(), found.corrupt


def test_features_keep_the_sets_order():
    """Row i is image i; a corrupt image has no row."""
    features, labels, corrupt = extract_pixels(corrupt=50)
    dataset = synthetic_data(train=101).train_images()
    kept = np.delete(np.arange(101), 50)
    images = torch.stack([torch.from_numpy(np.asarray(dataset.source.load(i))).permute(2, 0, 1) for i in kept])
    np.testing.assert_allclose(features, PixelFeatures()(images)["grid"].numpy(), rtol=1e-6)
    assert labels.tolist() == dataset.source.labels[kept].tolist()
    assert corrupt == 1


def extract_in_process():
    """Features of 101 images, and how many this process ran at once with a batch of 8 for all processes together."""
    pooled, sizes = small_features(), []
    pooled.encoder.conv1.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    extract_both(pooled, synthetic_data(train=16, test=2), 8)
    return extract_pixels(50), max(sizes)


@pytest.mark.slow
def test_processes_share_the_extraction(tmp_path):
    """Two processes with 101 images, one of them corrupt, gather what one process has, in batches of half the size."""
    expected, at_once = extract_in_process()
    assert at_once == 8
    for (features, labels, corrupt), at_once in run_in_processes(extract_in_process, 2, tmp_path):
        assert at_once == 4
        np.testing.assert_allclose(features, expected[0], rtol=1e-6)
        assert labels.tolist() == expected[1].tolist()
        assert corrupt == 1


def test_features_of_a_diverged_encoder_are_refused():
    """By every protocol that extracts them."""
    pooled = small_features()
    torch.nn.init.constant_(pooled.encoder.conv1.weight, float("nan"))
    with pytest.raises(RunFailedError, match="not finite"):
        extract_both(pooled, synthetic_data(), 8)


def test_devices_are_checked():
    """As torch names them."""
    assert find_device("cpu") == torch.device("cpu")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used"):
            find_device(name)
