"""Weighted nearest neighbours against a transcription in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.eval import knn
from pretrain.eval.knn import knn_scores, nearest_neighbours
from tests.pretrain.eval.synthetic import small_features, synthetic_data


def scores_by_hand(bank, labels, queries, classes, k, temperature):
    """Wu et al. (2018), section 3.4, query by query; every query's scores add up to 1."""
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    scores = np.zeros((len(queries), classes))
    for row, query in enumerate(queries):
        similarities = bank @ query
        for neighbour in np.argsort(-similarities)[:k]:
            scores[row, labels[neighbour]] += np.exp(similarities[neighbour] / temperature)
    return scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("k", [1, 7, 60])
@pytest.mark.parametrize("chunk_elements", [1, 60 * 4, 1 << 24])
def test_scores_equal_the_transcription(k, chunk_elements, monkeypatch):
    """Any number of neighbours, and any size of the chunks."""
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", chunk_elements)
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(60, 5)), generator.normal(size=(11, 5))
    labels = generator.integers(0, 4, 60)
    tensors = torch.from_numpy(bank), torch.from_numpy(labels), torch.from_numpy(queries)
    found = knn_scores(*tensors, classes=4, k=k, temperature=0.07).numpy()
    expected = scores_by_hand(bank, labels, queries, 4, k, 0.07)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), expected, rtol=1e-9, atol=1e-12)


def test_a_low_temperature_does_not_overflow():
    """exp(1 / 0.001) is beyond float32; the nearest neighbour decides alone."""
    bank = torch.eye(3)
    scores = knn_scores(bank, torch.tensor([2, 0, 1]), bank, classes=3, k=3, temperature=0.001)
    assert scores.isfinite().all()
    assert scores.argmax(1).tolist() == [2, 0, 1]


@torch.no_grad()
def test_k_is_capped_by_the_training_images():
    """24 images cannot give 200 neighbours; the result says how many voted. Colours are found."""
    stages, _ = nearest_neighbours(small_features(), synthetic_data(), k=200, temperature=0.001, batch_size=8)
    assert {stage["k"] for stage in stages.values()} == {24}
    assert stages["res2"]["top1"] == 100.0
