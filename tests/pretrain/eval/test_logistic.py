"""Logistic regression on cached features: its optimum, and the choice of the penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.eval.features import FeatureSet
from pretrain.eval.logistic import PENALTIES, choose_penalty, classify_stage, fit_logistic_regression, logistic_probe
from tests.pretrain.eval.synthetic import small_features, synthetic_data


def clusters(count: int, classes: int, width: int, spread: float):
    """Standardised points ``(count, width)`` about one random centre a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    points = rng.normal(size=(classes, width))[labels] + spread * rng.normal(size=(count, width))
    return (points - points.mean(0)) / points.std(0), labels


@pytest.mark.parametrize("penalty", [1e-1, 1e-4])
def test_the_optimum_has_no_gradient(penalty):
    """The documented objective's gradient written out in float64, on overlapping clusters."""
    x, labels = clusters(300, classes=4, width=6, spread=1.5)
    model = fit_logistic_regression(x, labels, penalty)
    scores = np.exp(x @ model.coef_.T + model.intercept_)
    residual = scores / scores.sum(1, keepdims=True) - np.eye(4)[labels]
    assert np.abs(residual.T @ x / 300 + penalty * model.coef_).max() < 2e-4
    assert np.abs(residual.mean(0)).max() < 2e-4


def test_the_penalty_is_chosen_on_held_out_images():
    """Far more dimensions than images and much noise call for a strong one; of equally good ones it is the strongest."""
    noisy, labels = clusters(80, classes=2, width=200, spread=8.0)
    assert choose_penalty(noisy, labels, 2, seed=0) > 1e-5
    tight, labels = clusters(80, classes=2, width=5, spread=0.01)
    assert choose_penalty(tight, labels, 2, seed=0) == PENALTIES[0]
    assert choose_penalty(tight[:2], labels[:2], 2, seed=0) == PENALTIES[0]  # one image a class


def test_features_are_standardised():
    """Scales and offsets of features, and channels that do not vary, change nothing; a class may lack images."""
    x, labels = clusters(200, classes=7, width=16, spread=0.4)
    scaled = np.hstack([x * np.logspace(-3, 3, 16) + 7, np.zeros((200, 1)), np.full((200, 1), 0.1)])
    found = []
    for features in (x, scaled):
        train, test = (FeatureSet({"res5": torch.from_numpy(features[part]).float()}, torch.from_numpy(labels[part]))
                       for part in (slice(0, 120), slice(120, None)))
        found.append(classify_stage(train, test, "res5", classes=8, seed=0))
    assert found[0]["top1"] == found[1]["top1"] > 95
    assert found[0]["penalty"] == found[1]["penalty"] and all(stage["converged"] for stage in found)


@torch.no_grad()
def test_the_probe_on_an_encoder():
    """Every stage has accuracies and its penalty, and colours are learned."""
    stages, corrupt = logistic_probe(small_features(), synthetic_data(), batch_size=8)
    assert list(stages) == ["res2", "res3", "res4", "res5"]
    assert stages["res2"]["top1"] == stages["res2"]["train_top1"] == 100.0
    assert stages["res2"]["penalty"] in PENALTIES
    assert corrupt == dict(train=0, test=0)
