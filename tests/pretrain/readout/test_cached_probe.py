"""Logistic regression on cached features, and the features themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.readout.cached_probe import (
    CachedLinearProbe,
    accuracy,
    choose_penalty,
    fit_logistic_regression,
    standardisation,
)
from pretrain.readout.data import TestView
from pretrain.readout.features import extract_features
from tests.pretrain.processes import run_in_processes
from tests.pretrain.readout.drawn import PixelFeatures, drawn_data, drawn_session


def clusters(count: int, classes: int, width: int, spread: float, dtype=torch.float32):
    """Points ``(count, width)`` about one random centre a class, with an offset and scales to be standardised."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(count) % classes
    points = centres[labels] + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return (points * torch.logspace(-3, 3, width, dtype=torch.float64) + 7).to(dtype), labels


def test_separable_features_are_learned():
    """100% of training and of unseen points."""
    points, labels = clusters(400, classes=7, width=16, spread=0.1)
    model = fit_logistic_regression(points[:200], labels[:200], 7, penalty=1e-4)
    assert accuracy(model, points[:200], labels[:200], 7) == (100.0, 100.0)
    assert accuracy(model, points[200:], labels[200:], 7) == (100.0, 100.0)


@pytest.mark.parametrize("penalty", [1e-1, 1e-4])
def test_the_optimum_has_no_gradient(penalty):
    """The objective's gradient written out in float64, on overlapping clusters."""
    points, labels = clusters(300, classes=4, width=6, spread=1.5, dtype=torch.float64)
    model = fit_logistic_regression(points, labels, 4, penalty)
    x = ((points - points.mean(0)) / points.std(0, correction=0)).numpy()
    scores = np.exp(x @ model.weight.numpy().T + model.bias.numpy())
    residual = scores / scores.sum(1, keepdims=True) - np.eye(4)[labels.numpy()]
    assert np.abs(residual.T @ x / 300 + penalty * model.weight.numpy()).max() < 1e-5
    assert np.abs(residual.mean(0)).max() < 1e-5


def test_float32_reaches_float64s_optimum():
    """The precision of the features does not matter to three digits."""
    points, labels = clusters(300, classes=4, width=6, spread=1.5, dtype=torch.float64)
    exact = fit_logistic_regression(points, labels, 4, 1e-3)
    rough = fit_logistic_regression(points.float(), labels, 4, 1e-3)
    torch.testing.assert_close(rough.weight.double(), exact.weight, rtol=1e-3, atol=1e-3)


def test_features_that_do_not_vary_do_no_harm():
    """Dead channels, and constants that float32 cannot average exactly, keep a deviation of 1."""
    points, labels = clusters(100, classes=2, width=3, spread=0.1)
    dead = torch.cat([points, torch.zeros(100, 1), torch.full((100, 1), 0.1)], dim=1)
    _, std = standardisation(dead)
    assert std[3:].tolist() == [1.0, 1.0]
    assert accuracy(fit_logistic_regression(dead, labels, 2, 1e-3), dead, labels, 2)[0] == 100.0


def test_the_penalty_is_chosen_on_held_out_images():
    """Far more dimensions than images and much noise call for a strong penalty, tight clusters for none in particular."""
    noisy, labels = clusters(80, classes=2, width=200, spread=8.0)
    candidates = (1e1, 1e-1, 1e-7)
    chosen = choose_penalty(noisy, labels, 2, candidates, seed=0)
    assert chosen in candidates and chosen > 1e-7
    tight, labels = clusters(80, classes=2, width=5, spread=0.01)
    assert choose_penalty(tight, labels, 2, candidates, seed=0) == 1e1  # all are right: the strongest wins
    assert choose_penalty(tight[:2], labels[:2], 2, candidates, seed=0) == 1e1  # one image a class


@pytest.mark.slow
def test_the_probe_on_an_encoder():
    """Every stage has accuracies and its penalty, and colours are learned."""
    outcome = CachedLinearProbe(batch_size=8).run(drawn_session())
    assert list(outcome.stages) == ["res2", "res3", "res4", "res5"]
    assert outcome.stages["res2"]["top1"] == 100.0
    assert outcome.stages["res2"]["penalty"] in CachedLinearProbe().penalties
    assert outcome.undecodable == dict(train=0, test=0)
    with pytest.raises(ValueError, match="penalty is 0; it must be above 0"):
        CachedLinearProbe(penalties=(0,))


def extract_pixels(broken: int):
    """Features of 101 images in this process's share of the work, gathered."""
    dataset = drawn_data(train=101, broken=[broken]).train_views(TestView(16))
    found = extract_features(PixelFeatures(), dataset, 8, 0, torch.device("cpu"))
    return found.features["grid"].numpy(), found.labels.numpy(), found.undecodable


def test_features_keep_the_sets_order():
    """Row i is image i; an image that cannot be decoded has no row."""
    features, labels, undecodable = extract_pixels(broken=50)
    dataset = drawn_data(train=101).train_views(TestView(16))
    kept = np.delete(np.arange(101), 50)
    images = torch.stack([torch.from_numpy(np.asarray(dataset.source.load(i))).permute(2, 0, 1) for i in kept])
    np.testing.assert_allclose(features, PixelFeatures()(images)["grid"].numpy(), rtol=1e-6)
    assert labels.tolist() == dataset.labels[kept].tolist()
    assert undecodable == 1


@pytest.mark.slow
def test_processes_share_the_extraction(tmp_path):
    """Two processes with 101 images, one of them broken, gather what one process has."""
    expected = extract_pixels(50)
    for features, labels, undecodable in run_in_processes(extract_pixels, 2, tmp_path, 50):
        np.testing.assert_allclose(features, expected[0], rtol=1e-6)
        assert labels.tolist() == expected[1].tolist()
        assert undecodable == 1
