"""Linear probes by SGD and by Adam: against transcriptions in float64, independence, resume, and several processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.errors import RunFailedError
from pretrain.eval.evaluate import PROTOCOLS, run_protocol
from pretrain.eval.features import EncoderChangedError, FeatureSet, frozen, weights_sha256
from pretrain.eval.probes import (
    Classifiers,
    StateFile,
    adam_probe,
    count_hits,
    feature_loader,
    fit,
    in_order,
    linear_probe,
    measure,
    percentages,
    step_decay,
    train_on_images,
)
from tests.pretrain.eval.synthetic import PixelFeatures, small_features, synthetic_data
from tests.pretrain.processes import run_in_processes

CLASSES = 4


def train_on_pixels(data=None, stages=PixelFeatures.stages, epochs=4, lr=30.0, dtype=torch.float32, batch_size=8, stop=None,
                    state=None):
    """Trains linear classifiers on pixels; returns them and their results. ``stop`` ends the run after so many epochs."""
    data = data or synthetic_data()
    pooled = PixelFeatures(stages, dtype)
    model = Classifiers(pooled, pooled.widths, data.num_classes, seed=0).to(dtype)
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=lr)
    schedule = partial(step_decay, lr=lr, epochs=epochs)
    return model, train_on_images(model, optimizer, schedule, data, stop or epochs, batch_size, state)


def test_separable_features_are_learned():
    """Colours separate the classes: 100% on both stages, with the paper's learning rate; top-5 would say nothing."""
    _, (stages, _) = train_on_pixels(epochs=10)
    for name in PixelFeatures.stages:
        assert stages[name] == dict(top1=100.0, top5=None, train_top1=100.0)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 30), (29.99, 30), (30, 3), (59.99, 3), (60, 0.3), (90, 0.03)])
def test_the_learning_rate_drops_at_30_60_90(epoch, expected):
    """LoCo, section 5.1; with other numbers of epochs at the same shares."""
    assert step_decay(epoch, 30.0, 100) == pytest.approx(expected)
    assert step_decay(epoch / 10, 30.0, 10) == pytest.approx(expected)


def test_stages_do_not_see_each_other():
    """A stage's classifier trained beside the other's is bit for bit the one trained alone."""
    together, _ = train_on_pixels()
    for name, head in zip(PixelFeatures.stages, together.heads, strict=True):
        alone, _ = train_on_pixels(stages=(name,))
        assert torch.equal(head.weight, alone.heads[0].weight)
        assert torch.equal(head.bias, alone.heads[0].bias)


def test_the_first_step_is_that_of_the_textbook():
    """One full-batch epoch against softmax regression's gradient written out in float64."""
    data = synthetic_data(train=12)
    model, _ = train_on_pixels(data, ("grid",), epochs=1, lr=0.5, dtype=torch.float64, batch_size=12)
    loader = data.train_loader(12)
    loader.sampler.set_epoch(0)
    ((images, labels),) = loader
    x = PixelFeatures(("grid",), torch.float64)(images)["grid"].numpy()
    start = Classifiers(PixelFeatures(), {"grid": 12}, 3, seed=0).double().heads[0].weight.detach().numpy()
    scores = np.exp(x @ start.T)
    residual = scores / scores.sum(1, keepdims=True) - np.eye(3)[labels.numpy()]
    np.testing.assert_allclose(model.heads[0].weight.detach().numpy(), start - 0.5 * residual.T @ x / 12, rtol=1e-9)
    np.testing.assert_allclose(model.heads[0].bias.detach().numpy(), -0.5 * residual.mean(0), rtol=1e-9, atol=1e-12)


def test_resume_is_exact(tmp_path):
    """Interrupted after two of four epochs and continued, weights and accuracies are those of the undisturbed run."""
    state = StateFile(tmp_path / "run.state.pth", {"seed": 0})
    whole, expected = train_on_pixels()
    train_on_pixels(stop=2, state=state)
    with pytest.raises(ValueError, match="unfinished run; pass --resume"):
        train_on_pixels(state=state)
    with pytest.raises(ValueError, match="other settings .seed"):
        train_on_pixels(state=replace(state, settings={"seed": 1}, resume=True))
    resumed, found = train_on_pixels(state=replace(state, resume=True))
    assert weights_sha256(resumed.heads) == weights_sha256(whole.heads)
    assert found == expected


def test_corrupt_images_train_nothing():
    """With one image corrupt, the classifier is that of the set without it; the count is in the result."""
    corrupt = synthetic_data(train=120, corrupt=[5])
    without = replace(corrupt, train_indices=np.delete(np.arange(120), 5))
    found, (_, counts) = train_on_pixels(corrupt, epochs=1, dtype=torch.float64, batch_size=120)
    expected, _ = train_on_pixels(without, epochs=1, dtype=torch.float64, batch_size=120)
    torch.testing.assert_close(found.heads[1].weight, expected.heads[1].weight)
    assert counts == dict(train=1, test=0)


@pytest.mark.parametrize("batch_size", [8, 24])
@pytest.mark.parametrize("lr", [1e30, 3e38])
def test_a_run_that_diverges_ends(batch_size, lr):
    """Also if the last step does it, after which no loss is computed."""
    with pytest.raises(RunFailedError, match="training diverged in epoch 1"):
        train_on_pixels(lr=lr, epochs=1, batch_size=batch_size)


@pytest.mark.parametrize("probe", [
    partial(linear_probe, epochs=1, batch_size=8, lr=1.0),
    partial(adam_probe, epochs=1, batch_size=8, lr=1e-3, weight_decay=0.0),
])
def test_probes_leave_the_encoder_alone(probe):
    """A whole run on a real encoder, batch norm statistics included."""
    pooled = small_features()
    before = weights_sha256(pooled.encoder)
    with frozen(pooled.encoder):
        stages, corrupt = probe(pooled, synthetic_data(train=8, test=8))
    assert weights_sha256(pooled.encoder) == before and not pooled.encoder.training
    assert list(stages) == ["res2", "res3", "res4", "res5"]
    assert all(0 <= found[metric] <= 100 for found in stages.values() for metric in ("top1", "train_top1"))
    assert corrupt == dict(train=0, test=0)


def train_in_process():
    """What one of several processes computes, with its share of a global batch of 8; 30 images leave a last batch of 6."""
    model, (stages, _) = train_on_pixels(synthetic_data(train=30, test=7, classes=6), dtype=torch.float64, epochs=3)
    features, labels = clusters(count=33, dtype=torch.float64)
    cached, top1 = train_on_clusters(features, labels, epochs=2, batch_size=8)
    return [p.detach().numpy() for p in (*model.heads.parameters(), *cached.heads.parameters())], (stages, top1)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Weights in float64 and all accuracies, on images and on cached features, whose last batch is one image."""
    weights, accuracies = train_in_process()
    for found_weights, found in run_in_processes(train_in_process, 2, tmp_path):
        for own, expected in zip(found_weights, weights, strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-12)
        assert found == accuracies


def clusters(count: int = 50, dtype=torch.float32):
    """Two sets of features in clusters, which one linear classifier each can separate."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    centres = {"low": torch.randn(CLASSES, 6, generator=generator), "high": torch.randn(CLASSES, 9, generator=generator)}
    return {name: (each[labels] + 0.1 * torch.randn(count, each.shape[1], generator=generator)).to(dtype)
            for name, each in centres.items()}, labels


def train_on_clusters(features, labels, epochs, batch_size=16, lr=1e-2, weight_decay=0.0, seed=5):
    """Trains classifiers of cached features by Adam; returns them and their training accuracies."""
    model = Classifiers(nn.Identity(), {name: x.shape[1] for name, x in features.items()}, CLASSES, 3)
    model.to(next(iter(features.values())).dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    return model, fit(model, feature_loader(FeatureSet(features, labels), batch_size, seed), optimizer, lambda _: lr, epochs)


def adam_in_float64(x, labels, head, batches, lr, weight_decay):
    """Kingma and Ba's algorithm 1 with decay added to the gradient, on the mean cross entropy; returns ``(C, D + 1)``."""
    x = np.hstack([x.double().numpy(), np.ones((len(x), 1))])  # the last column's weights are the biases
    weights = np.hstack([head.weight.detach().double().numpy(), head.bias.detach().double().numpy()[:, None]])
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, rows in enumerate(batches, start=1):
        logits = x[rows] @ weights.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(rows)), labels.numpy()[rows]] -= 1
        grad = p.T @ x[rows] / len(rows) + weight_decay * weights
        first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
        weights = weights - lr * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights


def test_training_is_adam_on_the_mean_cross_entropy():
    """Weights and biases of every classifier, against a transcription in float64; the last minibatch is a small one."""
    features, labels = clusters()
    sampler = feature_loader(FeatureSet(features, labels), 16, seed=5).sampler
    batches = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        batches += [rows.numpy() for rows in sampler]
    assert [len(rows) for rows in batches[:4]] == [16, 16, 16, 2]
    assert not np.array_equal(batches[0], batches[4]), "every epoch has an order of its own"
    start, _ = train_on_clusters(features, labels, epochs=0)
    model, _ = train_on_clusters(features, labels, epochs=6, weight_decay=0.1)
    for place, x in enumerate(features.values()):
        head = model.heads[place]
        expected = adam_in_float64(x, labels, start.heads[place], batches, 1e-2, 0.1)
        found = np.hstack([head.weight.detach().numpy(), head.bias.detach().numpy()[:, None]])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_accuracies_on_cached_features_are_counted():
    """From chance to 100 % on seen and unseen points."""
    features, labels = clusters(400)
    train, test = (FeatureSet({name: x[part] for name, x in features.items()}, labels[part])
                   for part in (slice(0, 200), slice(200, None)))
    untrained, _ = train_on_clusters(train.features, train.labels, epochs=0)
    assert all(found["top1"] < 80 for found in measure(untrained, in_order(test, 64)).values())
    model, _ = train_on_clusters(train.features, train.labels, epochs=10, batch_size=40, lr=0.1)
    assert measure(model, in_order(test, 64)) == dict.fromkeys(("low", "high"), dict(top1=100.0, top5=None))


def test_hits_are_counted_as_numpy_sorts():
    """Top-1 and top-5 of 8 classes; images without a label do not count."""
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 8)), rng.integers(-1, 8, 50)
    order, counted = np.argsort(-scores, axis=1), labels >= 0
    hits = count_hits(torch.from_numpy(scores), torch.from_numpy(labels))
    top1 = (order[:, 0] == labels)[counted].mean()
    top5 = (order[:, :5] == labels[:, None]).any(axis=1)[counted].mean()
    assert percentages(hits, 8) == pytest.approx(dict(top1=100 * top1, top5=100 * top5))


def test_a_meddling_protocol_is_found_out():
    """The guard around every protocol that must keep the encoder."""
    def meddle(pooled, data):
        pooled.encoder.train()(torch.randn(2, 3, 16, 16))

    encoder = small_features().encoder
    with pytest.raises(EncoderChangedError, match="not bit-identical"):
        run_protocol(PROTOCOLS["knn"]._replace(run=meddle), {}, encoder, ("res5",), synthetic_data(), None)
