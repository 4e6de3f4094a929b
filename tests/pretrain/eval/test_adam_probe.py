"""The second paper's linear evaluation: Adam on cached features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.errors import RunFailedError
from pretrain.eval.adam_probe import AdamLinearProbe, head_accuracy, train_heads
from pretrain.eval.evaluate import Readout, read_out
from pretrain.eval.training import linear_head
from tests.pretrain.eval.drawn import drawn_session

CLASSES = 4


def drawn_features(count: int = 50):
    """Two sets of features in clusters, which one linear classifier each can tell apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    centres = {"low": torch.randn(CLASSES, 6, generator=generator), "high": torch.randn(CLASSES, 9, generator=generator)}
    return {name: each[labels] + 0.1 * torch.randn(count, each.shape[1], generator=generator)
            for name, each in centres.items()}, labels


def heads_of(features):
    return {name: linear_head(x.shape[1], CLASSES, seed=3) for name, x in features.items()}


def adam_in_float64(x, labels, head, options, seed):
    """Kingma and Ba's algorithm 1 with decay added to the gradient, on the mean cross entropy; returns ``(C, D + 1)``."""
    x = np.hstack([x.double().numpy(), np.ones((len(x), 1))])  # the last column's weights are the biases
    weights = np.hstack([head.weight.detach().double().numpy(), head.bias.detach().double().numpy()[:, None]])
    first, second, step = np.zeros_like(weights), np.zeros_like(weights), 0
    generator = torch.Generator().manual_seed(seed)
    for _ in range(options.epochs):
        order = torch.randperm(len(x), generator=generator).numpy()
        for start in range(0, len(x), options.batch_size):
            rows, step = order[start : start + options.batch_size], step + 1
            logits = x[rows] @ weights.T
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(len(rows)), labels.numpy()[rows]] -= 1
            grad = p.T @ x[rows] / len(rows) + options.weight_decay * weights
            first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
            weights = weights - options.lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def test_training_is_adam_on_the_mean_cross_entropy():
    """Weights and biases of every classifier, against a transcription in float64; the last minibatch is a small one."""
    features, labels = drawn_features()
    options, heads = AdamLinearProbe(epochs=6, batch_size=16, lr=1e-2, weight_decay=0.1), heads_of(features)
    expected = {name: adam_in_float64(x, labels, heads[name], options, seed=5) for name, x in features.items()}
    train_heads(heads, features, labels, options, seed=5)
    for name, head in heads.items():
        found = np.hstack([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]])
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)
        other_order = adam_in_float64(features[name], labels, heads_of(features)[name], options, seed=6)
        assert np.abs(found - other_order).max() > 1e-3


def test_a_classifier_does_not_depend_on_its_neighbours():
    """Trained side by side or alone, bit for bit."""
    features, labels = drawn_features()
    together, alone = heads_of(features), heads_of(features)
    options = AdamLinearProbe(epochs=2, batch_size=16)
    train_heads(together, features, labels, options, seed=0)
    train_heads({"high": alone["high"]}, {"high": features["high"]}, labels, options, seed=0)
    assert torch.equal(together["high"].weight, alone["high"].weight)


def test_separable_classes_are_learned():
    """From chance to 100 % on seen and unseen points."""
    features, labels = drawn_features(400)
    train, test = ({name: x[part] for name, x in features.items()} for part in (slice(0, 200), slice(200, None)))
    heads = heads_of(features)
    assert all(top1 < 80 for top1, _ in head_accuracy(heads, test, labels[200:], 64).values())
    train_heads(heads, train, labels[:200], AdamLinearProbe(epochs=10, batch_size=40, lr=0.1), seed=0)
    assert head_accuracy(heads, test, labels[200:], 64) == {"low": (100.0, None), "high": (100.0, None)}


def test_an_outcome_is_that_of_the_trained_classifiers():
    """On a real encoder, whose corrupt images are left out and counted."""
    outcome = AdamLinearProbe(epochs=3, batch_size=8).run(drawn_session())
    assert list(outcome.stages) == ["res2", "res3", "res4", "res5"]
    assert all(0 <= stage["top1"] <= 100 and 0 <= stage["train_top1"] <= 100 for stage in outcome.stages.values())
    assert outcome.corrupt == dict(train=0, test=0)


def test_divergence_ends_the_run():
    """With the option that mends it."""
    features, labels = drawn_features()
    with pytest.raises(RunFailedError, match=r"training diverged in epoch 1: .*lower the learning rate with --lr"):
        train_heads(heads_of(features), features, labels, AdamLinearProbe(epochs=2, lr=1e30), seed=0)


def test_the_papers_options_are_the_defaults_and_bounded():
    """Section 4.1: 200 epochs, and optimizer and batch size of the pretraining."""
    assert AdamLinearProbe().protocol() == dict(epochs=200, batch_size=256, lr=1e-3, weight_decay=1e-6,
                                                augmentation=None)
    assert AdamLinearProbe(weight_decay=0).weight_decay == 0
    for option in (dict(epochs=0), dict(batch_size=0), dict(lr=-1.0), dict(weight_decay=-1.0)):
        with pytest.raises(ValueError, match=f"{next(iter(option))} is {next(iter(option.values()))}"):
            AdamLinearProbe(**option)


def test_stl10_is_trained_on_its_labelled_images(tmp_path):
    """The split "train", of 5,000 in the published files, whatever unlabelled images lie beside it."""
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for part, count in dict(train=20, test=10, unlabeled=40).items():
        np.random.default_rng(count).integers(0, 256, (count, 3, 96, 96), dtype=np.uint8).tofile(folder / f"{part}_X.bin")
        if part != "unlabeled":
            (np.arange(count) % 10 + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    encoder = dict(type="resnet18", stem="small", width=8)
    readout = Readout("random", "stl10", str(tmp_path), encoder, image_size=16, workers=0, device="cpu",
                      out=str(tmp_path / "result.json"))
    record = read_out(readout, AdamLinearProbe(epochs=1, batch_size=10))
    assert record["protocol"]["name"] == "linear_adam"
    assert {row["metric"] for row in record["rows"]} == {"top1", "top5", "train_top1"}
    expected = dict(train_split="train", test_split="test", train_images=20, test_images=10, classes=10)
    assert expected.items() <= record["data"].items()
