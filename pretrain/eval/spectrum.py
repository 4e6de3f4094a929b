"""How many dimensions features fill: the spectrum of their covariance, and numbers that sum it up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RANKME_EPSILON = 1e-7  # Garrido et al., 2023, equation 3


@dataclass(frozen=True)
class Spectrum:
    """What :func:`feature_spectrum` finds; everything was computed in float64.

    Attributes:
        singular_values: ``(C,)`` of the covariance matrix of the features, descending; not below 0.
        effective_rank: RankMe of the features as they are, from above 0 to min(N, C); see :func:`rankme`. A mean far from
            the origin, as features behind a ReLU have, is one large singular value and lowers it.
        centred_effective_rank: RankMe of the features less their mean.
        covariance_effective_rank: of the covariance matrix, from 1 to C, or 0; see :func:`effective_rank`. The only one of
            the three that is of ``singular_values``.
        participation_ratio: from 1 to C, or 0; see :func:`participation_ratio`.
    """

    singular_values: Tensor
    effective_rank: float
    centred_effective_rank: float
    covariance_effective_rank: float
    participation_ratio: float


def feature_spectrum(features: Tensor) -> Spectrum:
    """The spectrum of features ``(N, C)`` (Fournier et al., 2023, figure 1b; Jing et al., 2022, section 4).

    Raises:
        ValueError: there are fewer than two rows.
    """
    count = len(features)
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 images; there are {count}")
    x = features.double()
    covariance, mean = torch.cov(x.T, correction=0).reshape(x.shape[1], -1), x.mean(dim=0)  # (C, C), (C,)
    eigenvalues = _eigenvalues(covariance)  # (C,), also the singular values
    # the Gram matrix of the features as they are, from centred sums, so that large means cost no digits
    gram = count * (covariance + torch.outer(mean, mean))  # (C, C)
    return Spectrum(
        singular_values=eigenvalues,
        effective_rank=rankme(_eigenvalues(gram)[:count].sqrt()),
        centred_effective_rank=rankme((count * eigenvalues[:count]).sqrt()),
        covariance_effective_rank=effective_rank(eigenvalues),
        participation_ratio=participation_ratio(eigenvalues),
    )


def rankme(singular_values: Tensor) -> float:
    """RankMe (Garrido et al., 2023, equation 3) of a feature matrix ``(N, C)``, which it takes neither centred nor scaled.

    The exponential of the entropy of ``p = s / sum(s) + 1e-7``, where ``s`` are the matrix's ``min(N, C)`` singular values.
    The covariance matrix has the squares of those of the centred matrix over N, so :func:`effective_rank` of its spectrum is
    another number. From 1 (but for what epsilon adds) to ``min(N, C)``; 0 where all features are 0.
    """
    total = singular_values.sum()
    return _exp_entropy(singular_values / total + RANKME_EPSILON) if total > 0 else 0.0


def effective_rank(eigenvalues: Tensor) -> float:
    """Exponential of the entropy of normalised eigenvalues (Roy and Vetterli, 2007).

    C if all C are equal, 1 if one is left, 0 where all are 0.
    """
    total = eigenvalues.sum()
    return _exp_entropy(eigenvalues / total) if total > 0 else 0.0


def participation_ratio(eigenvalues: Tensor) -> float:
    """``(sum of eigenvalues)^2 / sum of their squares`` of a covariance matrix.

    C if all C are equal, 1 if one is left, 0 where all are 0.
    """
    squares = eigenvalues.square().sum()
    return (eigenvalues.sum().square() / squares).item() if squares > 0 else 0.0


def _exp_entropy(p: Tensor) -> float:
    return (-torch.xlogy(p, p).sum()).exp().item()  # 0 log 0 is 0


def _eigenvalues(symmetric: Tensor) -> Tensor:
    """Of a positive semidefinite matrix, descending; what rounding has made negative is 0."""
    return torch.linalg.eigvalsh(symmetric).flip(0).clamp_min(0)
