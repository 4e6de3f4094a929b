"""Cached features are the computed ones, and no others."""

from __future__ import annotations

import pytest
import torch

import loco_det.register  # noqa: F401  isort: skip
from loco_det.model.backbone import PretrainedEncoder
from loco_det.model.feature_cache import FeatureCache, weights_fingerprint


def counting(calls):
    def compute(x):
        calls.append(len(x))
        return x.mean((2, 3), keepdim=True), x[:, :1]

    return compute


def test_each_image_is_computed_once():
    """Also when a batch holds it twice, or in another order and company."""
    calls, cache, x = [], FeatureCache(1 << 20), torch.randn(4, 3, 5, 5)
    compute = counting(calls)
    for rows in ([0, 1, 1], [1, 2, 0], [3], [3, 2, 1, 0]):
        found = cache.forward(compute, x[rows], b"w")
        for a, b in zip(found, counting([])(x[rows]), strict=True):
            assert torch.equal(a, b)
    assert calls == [1, 1, 1, 1]  # each alone: its last bits do not depend on its batch
    cache.forward(compute, x[:1], b"other weights")
    assert calls == [1, 1, 1, 1, 1]


def test_equal_bytes_of_another_shape_are_another_image():
    """A uniform landscape image is not a uniform portrait one."""
    cache = FeatureCache(1 << 20)
    for shape in ((1, 3, 4, 8), (1, 3, 8, 4)):
        assert cache.forward(lambda x: (x,), torch.ones(shape), b"w")[0].shape == shape


def test_memory_is_bounded():
    """The least recently used image goes."""
    calls, x = [], torch.randn(3, 3, 4, 4)
    one_image = sum(level.nbytes for level in counting([])(x[:1]))
    cache = FeatureCache(2 * one_image)
    for row in (0, 1, 0, 2, 0, 1):
        cache.forward(counting(calls), x[row : row + 1], b"w")
    assert len(calls) == 4  # 0, 1, 2, and 1 again
    assert (len(cache), cache.num_bytes) == (2, 2 * one_image)


def test_backbone_features_are_the_same_with_and_without_cache():
    """Also after other weights have been loaded into the same backbone, and when it is run again."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    cached, plain = (PretrainedEncoder("resnet18", frozen_stages=4, cache_mib=mib) for mib in (16, 0))
    for seed in (1, 2):
        torch.manual_seed(seed)
        weights = PretrainedEncoder("resnet18").state_dict()
        cached.load_state_dict(weights)
        plain.load_state_dict(weights)
        for _ in range(2):
            for a, b in zip(cached(x), plain(x), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
                assert not a.requires_grad


def test_fingerprint_sees_every_tensor_and_option():
    """One buffer more or less is another fingerprint."""
    module = torch.nn.BatchNorm2d(3)
    first = weights_fingerprint(module)
    assert first == weights_fingerprint(module) != weights_fingerprint(module, "res5")
    module.running_mean += 1
    assert first != weights_fingerprint(module)


def test_a_trained_backbone_cannot_be_cached():
    """Its features change."""
    with pytest.raises(ValueError, match="only 1 of 4 stages are frozen"):
        PretrainedEncoder("resnet18", frozen_stages=1, cache_mib=16)
