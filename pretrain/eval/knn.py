"""Weighted k-nearest-neighbour classification of pooled features (Wu et al., 2018; MoCo's monitor)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from pretrain.eval.accuracy import AccuracyCounter
from pretrain.eval.features import extract_session
from pretrain.eval.session import DEFAULT_BATCH_SIZE, Outcome, Session, check_above_zero

CHUNK_ELEMENTS = 1 << 24  # similarities computed at once, 64 MiB of float32


@dataclass(frozen=True)
class NearestNeighbours:
    """Votes of the k nearest training images, weighted by ``exp(cosine similarity / temperature)``.

    Args:
        k: number of neighbours; capped by the number of training images.
        temperature: tau of the weights.
        batch_size: images that are run through the encoder at once, of all processes together.

    Raises:
        ValueError: an option is not above 0.
    """

    k: int = 200
    temperature: float = 0.07
    batch_size: int = DEFAULT_BATCH_SIZE

    kind = "knn"
    keeps_encoder = True

    def __post_init__(self) -> None:
        check_above_zero(k=self.k, temperature=self.temperature, batch_size=self.batch_size)

    def protocol(self) -> dict[str, Any]:
        """See :class:`~pretrain.eval.session.Method`."""
        return dict(k=self.k, temperature=self.temperature, similarity="cosine", augmentation=None)

    def run(self, session: Session) -> Outcome:
        """See :class:`~pretrain.eval.session.Method`; a stage's record says how many neighbours, ``k``, were asked."""
        data = extract_session(session, self.batch_size)
        count, classes = len(data.train.labels), session.data.num_classes
        if self.k > count:
            print_log(f"k is {self.k}, but there are {count} training images: all of them vote", logger="current",
                      level=logging.WARNING)
        k = min(self.k, count)
        stages = {}
        for name, features in data.train.features.items():
            counter = AccuracyCounter([name], classes, session.device)
            chunks = knn_scores(features, data.train.labels, data.test.features[name], classes, k, self.temperature)
            for rows, scores in chunks:
                counter.add({name: scores}, data.test.labels[rows])
            top1, top5 = counter.percentages()[name]
            stages[name] = dict(top1=top1, top5=top5, k=k)
        return Outcome(stages, data.images_per_s, dict(train=data.train.corrupt, test=data.test.corrupt))


def knn_scores(
    bank: Tensor, labels: Tensor, queries: Tensor, classes: int, k: int, temperature: float
) -> Iterator[tuple[slice, Tensor]]:
    """Scores of every class for each query, chunk by chunk.

    Args:
        bank: features ``(N, C)`` of the training images.
        labels: their labels ``(N,)``.
        queries: features ``(Q, C)``.
        classes: the number of classes.
        k: number of neighbours, at most N.
        temperature: tau.

    Yields:
        Rows of ``queries``, and ``(rows, classes)``: the sum of ``exp(cosine / tau)`` over the neighbours of each class,
        relative to the nearest neighbour's.
    """
    bank = F.normalize(bank, dim=1).T.contiguous()  # (C, N)
    for first in range(0, len(queries), chunk := max(1, CHUNK_ELEMENTS // bank.shape[1])):
        similarities = F.normalize(queries[first : first + chunk], dim=1) @ bank  # (rows, N)
        nearest, neighbours = similarities.topk(k, dim=1)  # (rows, k), nearest first
        weights = ((nearest - nearest[:, :1]) / temperature).exp()  # scores only matter in proportion, and none overflows
        scores = weights.new_zeros(len(weights), classes)
        yield slice(first, first + chunk), scores.scatter_add_(1, labels[neighbours], weights)
