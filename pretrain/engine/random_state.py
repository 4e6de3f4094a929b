"""The random number generators of one process as plain data: captured, put back, and shielded."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """States of torch's, numpy's and Python's global generators, and of the current CUDA device's where there is one.

    Returns:
        Tensors, numbers, strings and tuples of them only, so that ``torch.load(..., weights_only=True)`` reads it.
    """
    algorithm, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": (algorithm, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached_gaussian),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts back what :func:`random_state` returned; its tensors may lie on any device."""
    algorithm, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"].cpu())
    np.random.set_state((algorithm, keys.cpu().numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Whatever is drawn or seeded inside leaves the generators as they were."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
