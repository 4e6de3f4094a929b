"""Spectra of features, and the numbers that sum them up, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.eval.spectrum import effective_rank, feature_spectrum, participation_ratio, rankme


def features_of_rank(rank: int, count: int = 60, width: int = 12, offset: float = 0.0) -> torch.Tensor:
    """``(count, width)`` float32 features in a subspace of this dimension, but for a common offset."""
    generator = np.random.default_rng(rank)
    x = generator.normal(size=(count, rank)) @ generator.normal(size=(rank, width))
    return torch.from_numpy((x * np.logspace(0, 2, width) + offset).astype(np.float32))


def garrido(features: np.ndarray) -> float:
    """RankMe as its paper has it, equation 3: singular values of the features, in float64."""
    values = np.linalg.svd(features, compute_uv=False)
    p = values / np.abs(values).sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("count", [60, 8])
def test_spectrum_is_that_of_numpys_covariance(offset, count):
    """Also far from the origin, and of fewer images than features."""
    features = features_of_rank(12, count, offset=offset)
    found, x = feature_spectrum(features), features.double().numpy()
    expected = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    np.testing.assert_allclose(found.singular_values, expected, rtol=1e-9, atol=1e-11 * expected[0])
    assert (found.singular_values >= 0).all()
    assert found.participation_ratio == pytest.approx(expected.sum() ** 2 / (expected**2).sum(), rel=1e-9)
    assert found.effective_rank == pytest.approx(garrido(x), rel=1e-6)
    assert found.centred_effective_rank == pytest.approx(garrido(x - x.mean(axis=0)), rel=1e-6)
    p = expected[expected > 1e-13 * expected[0]] / expected.sum()  # of 8 images 7 directions; the rest is rounding
    assert found.covariance_effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_features_of_low_rank_have_a_low_effective_rank(rank):
    """At most the rank, but for what epsilon adds; and no further singular value."""
    found = feature_spectrum(features_of_rank(rank))
    assert found.effective_rank <= rank * (1 + 1e-3)
    assert found.participation_ratio <= found.covariance_effective_rank * (1 + 1e-9) <= rank * (1 + 2e-9)
    values = found.singular_values / found.singular_values[0]
    assert values[rank - 1] > 1e-7 and (values[rank:] < 1e-10).all()  # float32's rounding, squared


def test_equal_directions_count_fully():
    """Orthonormal columns have the effective rank C, equal eigenvalues of the covariance the participation ratio C."""
    width = 9
    orthonormal = torch.linalg.qr(torch.randn(50, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    assert feature_spectrum(orthonormal).effective_rank == pytest.approx(width, rel=1e-4)
    assert rankme(torch.ones(width, dtype=torch.float64)) == pytest.approx(width, rel=1e-4)
    balanced = torch.cat([torch.eye(width), -torch.eye(width)])  # its covariance is a multiple of the identity
    assert feature_spectrum(balanced).participation_ratio == pytest.approx(width, rel=1e-12)
    assert feature_spectrum(balanced).covariance_effective_rank == pytest.approx(width, rel=1e-12)
    assert participation_ratio(torch.tensor([5.0, 0.0])) == effective_rank(torch.tensor([5.0, 0.0])) == 1


def test_rankme_sees_the_mean_and_the_covariance_does_not():
    """What is common to all images fills a dimension of the feature matrix: RankMe is taken of features as they are.

    So it may rise or fall with the mean alone, where the numbers of the covariance and of centred features stay.
    """
    centred = features_of_rank(12) - features_of_rank(12).mean(dim=0)
    moved = centred + 1e3
    before, after = feature_spectrum(centred), feature_spectrum(moved)
    for name in ("participation_ratio", "covariance_effective_rank", "centred_effective_rank"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-4), name
    assert after.effective_rank < 0.7 * before.effective_rank


def test_features_that_do_not_vary_have_no_dimension():
    """Constant features have one direction and no variance, zeros neither."""
    constant = feature_spectrum(torch.full((5, 3), 2.0))
    assert constant.participation_ratio == constant.covariance_effective_rank == constant.centred_effective_rank == 0
    assert constant.effective_rank == pytest.approx(1, rel=1e-4)
    assert feature_spectrum(torch.zeros(5, 3)).effective_rank == 0


def test_one_image_has_no_spectrum():
    """Nor has none."""
    with pytest.raises(ValueError, match="at least 2 images; there are 1"):
        feature_spectrum(torch.ones(1, 3))
