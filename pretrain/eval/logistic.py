"""Multinomial logistic regression on features that are extracted once: a linear probe for quick looks."""

from __future__ import annotations

import logging

import numpy as np
import torch
from mmengine.logging import print_log
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pretrain.distributed import comm
from pretrain.eval.data import LabelledData, rank_within_class
from pretrain.eval.features import FeatureSet, PooledFeatures, extract_both
from pretrain.eval.probes import Corrupt, StageResults, count_hits, percentages

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # coefficients of half the squared weights, from the strongest
MAX_ITERATIONS = 1000
TOLERANCE = 1e-4  # of the largest gradient; scikit-learn's default
MAX_FOLDS = 10


def logistic_probe(pooled: PooledFeatures, data: LabelledData, *, batch_size: int) -> tuple[StageResults, Corrupt]:
    """scikit-learn's logistic regression on standardised features of images that are not augmented.

    A stage's result says which ``penalty`` was chosen, how many ``iterations`` the final fit took, and whether it has
    ``converged``.

    Args:
        pooled: the frozen encoder.
        data: training and test set.
        batch_size: images that are run through the encoder at once, of all processes together.
    """
    train, test = extract_both(pooled, data, batch_size)

    def classify() -> StageResults:
        return {name: classify_stage(train, test, name, data.num_classes, data.seed) for name in train.features}

    return comm.broadcast_from_rank0(classify), dict(train=train.corrupt, test=test.corrupt)


def classify_stage(train: FeatureSet, test: FeatureSet, name: str, classes: int, seed: int) -> dict[str, object]:
    """The accuracy of a stage's features with the penalty that is best on a tenth of the training images."""
    scaler = StandardScaler()
    x = scaler.fit_transform(train.features[name].cpu().numpy())  # (N, C)
    labels = train.labels.cpu().numpy()
    penalty = choose_penalty(x, labels, classes, seed)
    model = fit_logistic_regression(x, labels, penalty)
    trained = accuracy(model, x, labels, classes)
    tested = accuracy(model, scaler.transform(test.features[name].cpu().numpy()), test.labels.cpu().numpy(), classes)
    print_log(f"{name}: top-1 {tested['top1']:.2f}% with penalty {penalty:g}", logger="current")
    iterations = int(model.n_iter_[0])
    return {**tested, "train_top1": trained["top1"], "penalty": penalty, "iterations": iterations,
            "converged": iterations < MAX_ITERATIONS}


def choose_penalty(x: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> float:
    """The penalty whose classifier is most accurate on a tenth of every class that it was not fitted to.

    Of equally accurate ones the strongest wins. Classes with fewer than ten images hold nothing out unless all do; then the
    tenth becomes as much as a half. Where no class has two images the strongest is taken.
    """
    ranks = rank_within_class(labels, np.random.default_rng(seed))
    folds = min(MAX_FOLDS, int(ranks.max()) + 1)
    if folds < 2:
        print_log(f"only one image per class to choose the penalty on: using {PENALTIES[0]:g}", logger="current",
                  level=logging.WARNING)
        return PENALTIES[0]
    held_out = ranks % folds == folds - 1
    model, accuracies = None, {}
    for penalty in PENALTIES:
        model = fit_logistic_regression(x[~held_out], labels[~held_out], penalty, model)
        accuracies[penalty] = accuracy(model, x[held_out], labels[held_out], classes)["top1"]
    return max(PENALTIES, key=accuracies.__getitem__)  # max takes the first of equal ones


def fit_logistic_regression(
    x: np.ndarray, labels: np.ndarray, penalty: float, start: LogisticRegression | None = None
) -> LogisticRegression:
    """Minimises the mean cross entropy plus ``penalty / 2`` times the sum of the squared weights, biases left out.

    Args:
        x: standardised features ``(N, C)``.
        labels: ``(N,)``.
        penalty: above 0.
        start: where to begin, such as the optimum with another penalty; it is changed.
    """
    model = start or LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)
    return model.set_params(C=1 / (penalty * len(x))).fit(x, labels)


def accuracy(model: LogisticRegression, x: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, object]:
    """Top-1 and top-5 accuracy in percent."""
    scores = torch.full((len(x), classes), -torch.inf)
    scores[:, model.classes_] = torch.from_numpy(model.predict_log_proba(x)).to(scores.dtype)
    return percentages(count_hits(scores, torch.from_numpy(labels)), classes)
