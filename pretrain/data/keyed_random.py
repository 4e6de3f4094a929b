"""Random numbers that are a pure function of a key: the same on every device, in every batch and in every process."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # as signed 64-bit integers, whose products wrap as unsigned ones do
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def uniforms(keys: Tensor, count: int, stream: int = 0) -> Tensor:
    """Counter-based uniform random numbers, without any generator's state.

    SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) started from a hash of the key:
    each part is xored into the state and mixed. A number depends on its seed, epoch, index, stream and position alone, and
    all arithmetic is exact: batches, processes and devices agree bit for bit, and nothing has to be saved to resume.

    Args:
        keys: ``(N, 3)`` int64: seed, epoch and index of each sample.
        count: numbers per sample.
        stream: another stream is another, independent set of numbers for the same keys.

    Returns:
        ``(N, count)`` float32 in [0, 1): multiples of 2^-24.
    """
    state = torch.zeros_like(keys[:, 0])  # (N,)
    for part in (*keys.unbind(1), stream):
        state = _mix((state ^ part) + _GOLDEN_GAMMA)
    counter = torch.arange(1, count + 1, device=keys.device)  # (count,)
    bits = _mix(state[:, None] + counter * _GOLDEN_GAMMA)  # (N, count)
    return _shift_right(bits, 40).float() * 2.0**-24  # 24 bits: float32 holds each of them exactly


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Stafford's variant 13 of MurmurHash3's)."""
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIER_2
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shifts in zeros, where ``>>`` on a signed integer repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
