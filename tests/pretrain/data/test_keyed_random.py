"""Keyed random numbers: the published generator, uniform, independent, and a function of the key alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pretrain.data.keyed_random import uniforms

MASK = (1 << 64) - 1


class SplitMix64:
    """Transcription of Vigna's splitmix64.c with Python's unbounded integers."""

    def __init__(self, seed: int) -> None:
        self.x = seed & MASK

    def next(self) -> int:
        """The next 64 bits."""
        self.x = (self.x + 0x9E3779B97F4A7C15) & MASK
        z = self.x
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def reference(key: tuple[int, int, int], count: int, stream: int) -> list[float]:
    """The documented chain in plain Python."""
    state = 0
    for part in (*key, stream):
        state = SplitMix64(state ^ (part & MASK)).next()
    generator = SplitMix64(state)
    return [(generator.next() >> 40) / 2**24 for _ in range(count)]


def grid(seeds: range, epochs: range, indices: range) -> torch.Tensor:
    """All keys of three ranges, ``(N, 3)``, the index running fastest."""
    return torch.tensor(list(itertools.product(seeds, epochs, indices)))


def test_the_transcription_is_splitmix64():
    """The published first outputs for seed 1234567."""
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("stream", [0, 1, 7])
def test_equals_the_published_generator(stream):
    """Wrapping products and logical shifts in int64 tensors give what unbounded integers with masks give, bit for bit."""
    keys = [(0, 0, 0), (1, 2, 3), (-1, 5, 2**40), (2**63 - 1, 0, 1), (-(2**63), 17, 1281166), (2**31, 799, 0)]
    expected = torch.tensor([reference(key, 20, stream) for key in keys], dtype=torch.float64)
    got = uniforms(torch.tensor(keys), 20, stream)
    assert got.dtype == torch.float32
    assert torch.equal(got.double(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree_bit_for_bit():
    """The same numbers on the GPU."""
    keys = grid(range(3), range(4), range(100))
    assert torch.equal(uniforms(keys.cuda(), 35, 1).cpu(), uniforms(keys, 35, 1))


@pytest.mark.parametrize("varied", ["seed", "epoch", "index", "stream", "position"])
def test_numbers_are_uniform(varied):
    """Along each coordinate alone, the numbers pass Kolmogorov-Smirnov and a chi-square test of 256 bins, and the lowest
    bits are as even as the highest."""
    n = 20_000
    ranges = {name: range(n if name == varied else 1) for name in ("seed", "epoch", "index")}
    if varied == "stream":
        key = torch.tensor([[5, 6, 7]])
        numbers = torch.cat([uniforms(key, 10, stream).flatten() for stream in range(n // 10)]).numpy()
    elif varied == "position":
        numbers = uniforms(torch.tensor([[5, 6, 7]]), n).flatten().numpy()
    else:
        numbers = uniforms(grid(ranges["seed"], ranges["epoch"], ranges["index"]), 1).flatten().numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    distance = np.abs(np.sort(numbers) - (np.arange(n) + 0.5) / n).max() + 0.5 / n  # Kolmogorov-Smirnov's statistic
    assert distance < 1.95 / np.sqrt(n)  # p = 0.001
    integers = (numbers.astype(np.float64) * 2**24).astype(np.int64)
    for bins in (integers >> 16, integers & 255):
        counts = np.bincount(bins, minlength=256)
        assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 330.5  # chi-square of 255 degrees of freedom, p = 0.001


def test_neighbours_are_uncorrelated():
    """Sets of numbers whose keys differ by one in seed, epoch, index, stream or position correlate no more than noise."""
    keys, n = grid(range(10, 11), range(20, 21), range(10_000)), 10_000
    base = uniforms(keys, 2)
    step = torch.eye(3, dtype=torch.int64)
    neighbours = [uniforms(keys + step[part], 2)[:, 0] for part in range(3)]
    neighbours += [uniforms(keys, 2, stream=1)[:, 0], base[:, 1]]
    correlations = np.corrcoef(torch.stack([base[:, 0], *neighbours]).double().numpy())
    off_diagonal = correlations[~np.eye(6, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(n)  # 4 standard deviations


def test_parts_of_the_key_are_not_interchangeable():
    """Permuted keys, and a stream in an index's place, have numbers of their own."""
    keys = torch.tensor(list(itertools.permutations((1, 2, 3))))
    streams = torch.cat([uniforms(keys, 1, stream) for stream in range(3)]).flatten()
    assert len(streams.unique()) == 18
