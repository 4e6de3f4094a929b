"""Multinomial logistic regression on features that are extracted once: a linear probe for quick looks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from pretrain.readout.accuracy import AccuracyCounter
from pretrain.readout.data import rank_within_class
from pretrain.readout.features import extract_session
from pretrain.readout.session import DEFAULT_BATCH_SIZE, Outcome, Session, check_above_zero

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # coefficients of the squared weights, from the strongest
MAX_ITERATIONS = 300
TOLERANCE = 1e-5  # largest entry of the gradient at the optimum
MAX_FOLDS = 10


@dataclass(frozen=True)
class LinearModel:
    """Standardisation and a linear classifier on top.

    Attributes:
        mean: ``(C,)``, of the training features.
        std: ``(C,)``, of the training features; 1 where they do not vary.
        weight: ``(classes, C)``.
        bias: ``(classes,)``.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """``(N, C)`` -> logits ``(N, classes)``."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)


@dataclass(frozen=True)
class CachedLinearProbe:
    """Logistic regression on standardised pooled features of test views.

    The penalty is chosen for each stage on a tenth of the training images that is held out, and the classifier then fitted
    to all of them.

    Args:
        batch_size: images that one process runs through the encoder at once.
        penalties: candidates, see :func:`fit_logistic_regression`.

    Raises:
        ValueError: an option is not above 0.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    penalties: tuple[float, ...] = PENALTIES

    kind = "linear_cached"
    keeps_encoder = True

    def __post_init__(self) -> None:
        check_above_zero(batch_size=self.batch_size)
        if not self.penalties:
            raise ValueError("penalties is empty; give at least one")
        for penalty in self.penalties:
            check_above_zero(penalty=penalty)

    def protocol(self) -> dict[str, Any]:
        """See :class:`~pretrain.readout.session.Method`."""
        return dict(name="cached", classifier="logistic regression", solver="L-BFGS", max_iterations=MAX_ITERATIONS,
                    tolerance=TOLERANCE, penalties=list(self.penalties), held_out_share=1 / MAX_FOLDS, augmentation=None)

    def run(self, session: Session) -> Outcome:
        """See :class:`~pretrain.readout.session.Method`; a stage's record says which ``penalty`` was chosen."""
        data = extract_session(session, self.batch_size)
        classes, stages = session.data.num_classes, {}
        for name, features in data.train.features.items():
            penalty = choose_penalty(features, data.train.labels, classes, self.penalties, session.seed)
            model = fit_logistic_regression(features, data.train.labels, classes, penalty)
            trained, _ = accuracy(model, features, data.train.labels, classes)
            top1, top5 = accuracy(model, data.test.features[name], data.test.labels, classes)
            stages[name] = dict(top1=top1, top5=top5, train_top1=trained, penalty=penalty)
            print_log(f"{name}: top-1 {top1:.2f}% with penalty {penalty:g}", logger="current")
        return Outcome(stages, data.images_per_s, dict(train=data.train.undecodable, test=data.test.undecodable))


def choose_penalty(features: Tensor, labels: Tensor, classes: int, penalties: Sequence[float], seed: int) -> float:
    """The penalty whose classifier is most accurate on a tenth of every class that it was not fitted to.

    Of equally accurate ones the strongest wins. Where no class has two images nothing can be held out, and the strongest is
    taken. Classes with fewer than ten images hold nothing out unless all do; then the tenth becomes as much as a half.

    Args:
        features: ``(N, C)``.
        labels: ``(N,)``.
        classes: the number of classes.
        penalties: candidates.
        seed: of the choice of held out images.
    """
    penalties = sorted(penalties, reverse=True)
    ranks = rank_within_class(labels.cpu().numpy(), np.random.default_rng(seed))
    folds = min(MAX_FOLDS, int(ranks.max()) + 1)
    if folds < 2:
        print_log(f"one image a class: nothing to choose the penalty on, {penalties[0]:g} is taken", logger="current",
                  level=logging.WARNING)
        return penalties[0]
    held_out = torch.from_numpy(ranks % folds == folds - 1).to(labels.device)
    best, best_accuracy, start = penalties[0], -1.0, None
    for penalty in penalties:
        start = fit_logistic_regression(features[~held_out], labels[~held_out], classes, penalty, start)
        found, _ = accuracy(start, features[held_out], labels[held_out], classes)
        if found > best_accuracy:
            best, best_accuracy = penalty, found
    return best


def fit_logistic_regression(
    features: Tensor, labels: Tensor, classes: int, penalty: float, start: LinearModel | None = None
) -> LinearModel:
    """Minimises the mean cross entropy plus ``penalty / 2`` times the sum of the squared weights, biases left out.

    Features are standardised first. Full-batch L-BFGS with a strong Wolfe line search, in the features' precision.

    Args:
        features: ``(N, C)``.
        labels: ``(N,)``.
        classes: the number of classes.
        penalty: above 0, so that there is one optimum.
        start: where to begin, such as the optimum with another penalty.
    """
    mean, std = standardisation(features)
    x = (features - mean) / std
    if start is None:
        weight, bias = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    else:
        weight, bias = start.weight.clone(), start.bias.clone()
    weight.requires_grad_(), bias.requires_grad_()
    solver = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, tolerance_grad=TOLERANCE, tolerance_change=1e-9,
                               history_size=10, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.5 * penalty * weight.square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    return LinearModel(mean, std, weight.detach(), bias.detach())


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(C,)`` of features ``(N, C)``; the deviation is 1 where they do not vary."""
    wide = features.double()
    std, mean = torch.std_mean(wide, dim=0, correction=0)
    varies = std > 1e-6 * mean.abs().clamp_min(1e-12)  # what is left of float32's rounding is no variation
    return mean.to(features.dtype), torch.where(varies, std, 1.0).to(features.dtype)


@torch.no_grad()
def accuracy(model: LinearModel, features: Tensor, labels: Tensor, classes: int) -> tuple[float, float | None]:
    """Top-1 and top-5 in percent; every process has all features and computes the same."""
    counter = AccuracyCounter(["stage"], classes, labels.device)
    counter.add({"stage": model(features)}, labels)
    return counter.percentages()["stage"]
