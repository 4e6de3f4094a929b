"""How many dimensions features fill: the spectrum of their covariance, and two numbers that sum it up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.errors import RunFailedError

RANKME_EPSILON = 1e-7  # Garrido et al., 2023, equation 3
CHUNK_ELEMENTS = 1 << 22  # of features made float64 at once


@dataclass(frozen=True)
class Spectrum:
    """What :func:`feature_spectrum` finds; everything was computed in float64.

    Attributes:
        singular_values: ``(C,)`` of the covariance matrix of the features, descending; not below 0.
        effective_rank: RankMe, from above 0 to min(N, C); see :func:`rankme`.
        participation_ratio: from 1 to C, or 0; see :func:`participation_ratio`.
    """

    singular_values: Tensor
    effective_rank: float
    participation_ratio: float


def feature_spectrum(features: Tensor) -> Spectrum:
    """The spectrum of features (Fournier et al., 2023, figure 1b; Jing et al., 2022, section 4).

    Args:
        features: ``(N, C)``, N of at least 2.

    Raises:
        ValueError: there are fewer than two rows.
        RunFailedError: a feature is not finite.
    """
    count = len(features)
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 images; there are {count}")
    mean, covariance = moments(features)
    singular_values = _eigenvalues(covariance)
    # the Gram matrix of the features as they are, from centred sums, so that large means cost no digits
    gram = count * (covariance + torch.outer(mean, mean))  # (C, C)
    return Spectrum(singular_values, rankme(_eigenvalues(gram)[:count].sqrt()), participation_ratio(singular_values))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(C,)`` and covariance ``(C, C)`` of features ``(N, C)``, the mean over N (not N - 1) products, in float64.

    Raises:
        RunFailedError: a feature is not finite.
    """
    width = features.shape[1]
    mean = torch.zeros(width, dtype=torch.float64, device=features.device)
    covariance = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    for chunk in _chunks(features):
        mean += chunk.sum(dim=0) / len(features)
    for chunk in _chunks(features):
        centred = chunk - mean
        covariance.addmm_(centred.T, centred, alpha=1 / len(features))
    if not covariance.isfinite().all():
        raise RunFailedError("the encoder's features are not finite; is the checkpoint of a run that diverged?")
    return mean, covariance


def rankme(singular_values: Tensor) -> float:
    """RankMe, the effective rank of Garrido et al., 2023 (equation 3), and of Roy and Vetterli, 2007.

    The exponential of the entropy of ``p = s / sum(s) + 1e-7``. RankMe takes the singular values ``s`` of the *feature
    matrix* ``(N, C)`` as it is, neither centred nor scaled. The covariance matrix has the squares of those of the centred
    matrix over N: the same formula on its spectrum gives another number, as a rule a smaller one.

    Args:
        singular_values: ``(min(N, C),)`` of the feature matrix, not below 0.

    Returns:
        From 1 (but for what epsilon adds) to ``min(N, C)``; 0 where all features are 0.
    """
    total = singular_values.sum()
    if not total > 0:
        return 0.0
    p = singular_values / total + RANKME_EPSILON
    return (-(p * p.log()).sum()).exp().item()


def participation_ratio(eigenvalues: Tensor) -> float:
    """``(sum of eigenvalues)^2 / sum of their squares`` of a covariance matrix: C if all C are equal, 1 if one is left.

    Args:
        eigenvalues: ``(C,)``, not below 0.

    Returns:
        From 1 to C; 0 where all eigenvalues are 0.
    """
    squares = eigenvalues.square().sum()
    return (eigenvalues.sum().square() / squares).item() if squares > 0 else 0.0


def _eigenvalues(symmetric: Tensor) -> Tensor:
    """Of a positive semidefinite matrix, descending; what rounding has made negative is 0."""
    return torch.linalg.eigvalsh(symmetric).flip(0).clamp_min(0)


def _chunks(features: Tensor) -> Iterator[Tensor]:
    """The features ``(N, C)`` in float64, some rows at a time."""
    for chunk in features.split(max(1, CHUNK_ELEMENTS // features.shape[1])):
        yield chunk.double()
