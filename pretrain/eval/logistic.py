"""Multinomial logistic regression on features that are extracted once: a linear probe for quick looks."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor

from pretrain.errors import RunFailedError
from pretrain.eval.accuracy import AccuracyCounter
from pretrain.eval.data import NO_LABEL, rank_within_class
from pretrain.eval.features import extract_session
from pretrain.eval.session import DEFAULT_BATCH_SIZE, Outcome, Session, check_above_zero

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # coefficients of the squared weights, from the strongest
MAX_ITERATIONS = 2000
CHECK_EVERY = 10  # iterations
TOLERANCE = 1e-6  # a fit has converged when CHECK_EVERY iterations lower its objective by no greater share
MAX_FOLDS = 10
CHUNK_ELEMENTS = 1 << 22  # of features, logits or float64 copies handled at once


@dataclass(frozen=True)
class Fit:
    """A linear classifier and how it was come by.

    Attributes:
        weight: ``(classes, C)``.
        bias: ``(classes,)``.
        iterations: of the solver.
        converged: whether it stopped at the optimum, not at :data:`MAX_ITERATIONS`.
    """

    weight: Tensor
    bias: Tensor
    iterations: int
    converged: bool

    def __call__(self, x: Tensor) -> Tensor:
        """``(N, C)`` -> logits ``(N, classes)``."""
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class Directions:
    """Eigenvectors of the correlation matrix of features, the coordinates in which a fit is well conditioned.

    Attributes:
        variances: eigenvalues ``(C,)``, not below 0.
        vectors: ``(C, C)``, an eigenvector a column.
    """

    variances: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class CachedLinearProbe:
    """Logistic regression on standardised pooled features of test views.

    The penalty is chosen for each stage on a tenth of the training images that is held out; the classifier that was chosen
    is then fitted on to all of them.

    Args:
        batch_size: images that are run through the encoder at once, of all processes together.
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
        """See :class:`~pretrain.eval.session.Method`."""
        return dict(classifier="logistic regression", solver="preconditioned L-BFGS",
                    max_iterations=MAX_ITERATIONS, tolerance=TOLERANCE, penalties=list(self.penalties),
                    held_out_share=1 / MAX_FOLDS, augmentation=None)

    def run(self, session: Session) -> Outcome:
        """See :class:`~pretrain.eval.session.Method`.

        A stage's record says which ``penalty`` was chosen, how many ``iterations`` all its fits took together, and whether
        they have ``converged``.
        """
        data = extract_session(session, self.batch_size)
        classes, stages = session.data.num_classes, {}
        for name in list(data.train.features):
            # standardised in place, and dropped after their stage: features may fill most of the memory
            train, test = data.train.features.pop(name), data.test.features.pop(name)
            mean, std = moments(train)
            for features in (train, test):
                features.sub_(mean).div_(std)
            directions = principal_directions(train)
            penalty, candidates = choose_penalty(train, data.train.labels, classes, self.penalties, session.seed, directions)
            fit = fit_logistic_regression(train, data.train.labels, classes, penalty, directions, candidates.get(penalty))
            fits = [*candidates.values(), fit]
            trained, _ = accuracy(fit, train, data.train.labels, classes)
            top1, top5 = accuracy(fit, test, data.test.labels, classes)
            stages[name] = dict(top1=top1, top5=top5, train_top1=trained, penalty=penalty,
                                converged=all(each.converged for each in fits), iterations=sum(f.iterations for f in fits))
            print_log(f"{name}: top-1 {top1:.2f}% with penalty {penalty:g}", logger="current")
        return Outcome(stages, data.images_per_s, dict(train=data.train.corrupt, test=data.test.corrupt))


def choose_penalty(
    x: Tensor, labels: Tensor, classes: int, penalties: Sequence[float], seed: int, directions: Directions
) -> tuple[float, dict[float, Fit]]:
    """The penalty whose classifier is most accurate on a tenth of every class that it was not fitted to.

    Of equally accurate ones the strongest wins. Where no class has two images nothing can be held out, and the strongest is
    taken. Classes with fewer than ten images hold nothing out unless all do; then the tenth becomes as much as a half.

    Args:
        x: standardised features ``(N, C)``.
        labels: ``(N,)``.
        classes: the number of classes.
        penalties: candidates.
        seed: of the choice of held out images.
        directions: of ``x``.

    Returns:
        The penalty, and the candidates by penalty, each fitted from where the stronger one's fit ended; none where nothing
        could be held out.
    """
    penalties = sorted(penalties, reverse=True)
    ranks = rank_within_class(labels.cpu().numpy(), np.random.default_rng(seed))
    folds = min(MAX_FOLDS, int(ranks.max()) + 1)
    if folds < 2:
        print_log(f"one image a class: nothing to choose the penalty on, {penalties[0]:g} is taken", logger="current",
                  level=logging.WARNING)
        return penalties[0], {}
    held_out = torch.from_numpy(ranks % folds == folds - 1).to(labels.device)
    fitted_to, judged_on = labels.masked_fill(held_out, NO_LABEL), labels.masked_fill(~held_out, NO_LABEL)
    fits: dict[float, Fit] = {}
    accuracies: dict[float, float] = {}
    for penalty in penalties:
        start = next(reversed(fits.values()), None)
        fits[penalty] = fit_logistic_regression(x, fitted_to, classes, penalty, directions, start)
        accuracies[penalty], _ = accuracy(fits[penalty], x, judged_on, classes)
    return max(penalties, key=accuracies.__getitem__), fits  # max takes the first of equal ones


def fit_logistic_regression(
    x: Tensor, labels: Tensor, classes: int, penalty: float, directions: Directions, start: Fit | None = None
) -> Fit:
    """Minimises the mean cross entropy plus ``penalty / 2`` times the sum of the squared weights, biases left out.

    Full-batch L-BFGS with a strong Wolfe line search, in the features' precision, until :data:`CHECK_EVERY` iterations lower
    the objective by no more than :data:`TOLERANCE` of it; a warning says so if that is not reached. Features of networks are
    strongly correlated, which would take thousands of iterations; so the solver sees the weights in coordinates in which the
    objective at zero has the same curvature in all directions. The objective and its optimum are untouched by that.

    Args:
        x: standardised features ``(N, C)``.
        labels: ``(N,)``; rows with negative ones are left out.
        classes: the number of classes.
        penalty: above 0, so that there is one optimum.
        directions: of ``x`` or of features much like it; they set the solver's pace alone.
        start: where to begin, such as the optimum with another penalty.
    """
    curvature = 1 / classes  # of the mean cross entropy at zero, along a direction of variance 1
    scale = (curvature * directions.variances + penalty).rsqrt()  # (C,)
    to_weight = (directions.vectors * scale).T  # (C, C): weight = coordinates @ to_weight
    if start is None:
        coordinates, offsets = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    else:
        coordinates, offsets = start.weight @ directions.vectors / scale, start.bias * math.sqrt(curvature)
    # CHECK_EVERY iterations a step, across which it keeps its history; its own tolerances are absolute ones
    solver = torch.optim.LBFGS([coordinates, offsets], max_iter=CHECK_EVERY, tolerance_grad=0, tolerance_change=0,
                               history_size=10, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def objective() -> Tensor:
        weight, bias = coordinates @ to_weight, offsets / math.sqrt(curvature)
        loss, weight_grad, bias_grad = _mean_cross_entropy(x, labels, weight, bias)
        coordinates.grad = (weight_grad + penalty * weight) @ to_weight.T
        offsets.grad = bias_grad / math.sqrt(curvature)
        return loss + 0.5 * penalty * weight.double().square().sum()

    before, iterations, converged = math.inf, 0, False
    while not converged and iterations < MAX_ITERATIONS:
        value = float(solver.step(objective))  # as it was at the start of the step
        converged, before = before - value <= TOLERANCE * value, value
        iterations += CHECK_EVERY
    if not converged:
        print_log(f"logistic regression with penalty {penalty:g} has not converged in {iterations} iterations",
                  logger="current", level=logging.WARNING)
    return Fit(coordinates @ to_weight, offsets / math.sqrt(curvature), iterations, converged)


def _mean_cross_entropy(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean over rows with labels, in float64, and its gradients with respect to weight and bias; chunk by chunk."""
    loss = torch.zeros((), dtype=torch.float64, device=x.device)
    weight_grad, bias_grad = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows in _chunks(len(x), len(weight)):
        kept, targets = labels[rows] >= 0, labels[rows].clamp_min(0)[:, None]  # (n,), (n, 1)
        residual = F.linear(x[rows], weight, bias).log_softmax(dim=1)  # (n, classes), log-probabilities as yet
        loss -= residual.gather(1, targets).squeeze(1)[kept].double().sum()
        residual.exp_().scatter_add_(1, targets, residual.new_full((1, 1), -1).expand_as(targets))
        residual *= kept[:, None]
        weight_grad.addmm_(residual.T, x[rows])
        bias_grad += residual.sum(dim=0)
    count = (labels >= 0).sum()
    return loss / count, weight_grad / count, bias_grad / count


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``(C,)`` of features ``(N, C)``; the deviation is 1 where they do not vary.

    Raises:
        RunFailedError: a feature is not finite.
    """
    mean, variance = (torch.zeros(features.shape[1], dtype=torch.float64, device=features.device) for _ in range(2))
    for rows in _chunks(*features.shape):
        mean += features[rows].double().sum(dim=0) / len(features)
    for rows in _chunks(*features.shape):
        variance += (features[rows].double() - mean).square_().sum(dim=0) / len(features)
    if not variance.isfinite().all():
        raise RunFailedError("the encoder's features are not finite; is the checkpoint of a run that diverged?")
    std = variance.sqrt()
    varies = std > 1e-6 * mean.abs().clamp_min(1e-12)  # what is left of float32's rounding is no variation
    return mean.to(features.dtype), torch.where(varies, std, 1.0).to(features.dtype)


def principal_directions(x: Tensor) -> Directions:
    """The principal directions of standardised features ``(N, C)``."""
    correlation = x.new_zeros(x.shape[1], x.shape[1])
    for rows in _chunks(*x.shape):
        correlation.addmm_(x[rows].T, x[rows], alpha=1 / len(x))
    variances, vectors = torch.linalg.eigh(correlation)
    return Directions(variances.clamp_min(0), vectors)


@torch.no_grad()
def accuracy(fit: Fit, x: Tensor, labels: Tensor, classes: int) -> tuple[float, float | None]:
    """Top-1 and top-5 in percent over the rows with labels; every process has all features and computes the same."""
    counter = AccuracyCounter(["stage"], classes, labels.device)
    for rows in _chunks(len(x), classes):
        counter.add({"stage": fit(x[rows])}, labels[rows])
    return counter.percentages()["stage"]


def _chunks(count: int, width: int) -> Iterator[slice]:
    """Rows ``[0, count)`` in runs of :data:`CHUNK_ELEMENTS` elements where a row has ``width``."""
    step = max(1, CHUNK_ELEMENTS // width)
    return (slice(first, first + step) for first in range(0, count, step))
