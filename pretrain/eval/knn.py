"""Weighted k-nearest-neighbour classification of pooled features (Wu et al., 2018, section 3.4; MoCo's monitor)."""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from pretrain.eval.data import LabelledData
from pretrain.eval.features import PooledFeatures, extract_both
from pretrain.eval.probes import Corrupt, StageResults, count_hits, percentages

CHUNK_ELEMENTS = 1 << 24  # similarities computed at once, 64 MiB of float32


def nearest_neighbours(
    pooled: PooledFeatures, data: LabelledData, *, k: int, temperature: float, batch_size: int
) -> tuple[StageResults, Corrupt]:
    """Votes of the k nearest training images, weighted by ``exp(cosine similarity / temperature)``.

    Args:
        pooled: the frozen encoder.
        data: training images, which vote, and test images.
        k: number of neighbours; capped by the number of training images. A stage's result says how many voted.
        temperature: tau of the weights.
        batch_size: images that are run through the encoder at once, of all processes together.
    """
    train, test = extract_both(pooled, data, batch_size)
    if k > len(train.labels):
        print_log(f"k is {k}, but there are {len(train.labels)} training images: all of them vote", logger="current",
                  level=logging.WARNING)
        k = len(train.labels)
    stages = {}
    for name, bank in train.features.items():
        scores = knn_scores(bank, train.labels, test.features[name], data.num_classes, k, temperature)
        stages[name] = {**percentages(count_hits(scores, test.labels), data.num_classes), "k": k}
    return stages, dict(train=train.corrupt, test=test.corrupt)


def knn_scores(bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Scores of every class for each query.

    Args:
        bank: features ``(N, C)`` of the training images.
        labels: their labels ``(N,)``.
        queries: features ``(Q, C)``.
        classes: the number of classes.
        k: number of neighbours, at most N.
        temperature: tau.

    Returns:
        ``(Q, classes)``: the sum of ``exp(cosine / tau)`` over the neighbours of each class, relative to the nearest
        neighbour's.
    """
    bank = F.normalize(bank, dim=1).T.contiguous()  # (C, N)
    scores = []
    for chunk in F.normalize(queries, dim=1).split(max(1, CHUNK_ELEMENTS // bank.shape[1])):
        nearest, neighbours = (chunk @ bank).topk(k, dim=1)  # (rows, k), nearest first
        weights = ((nearest - nearest[:, :1]) / temperature).exp()  # scores only matter in proportion, and none overflows
        scores.append(weights.new_zeros(len(weights), classes).scatter_add_(1, labels[neighbours], weights))
    return torch.cat(scores)
