"""States of the random number generators: plain data that brings the same numbers back."""

from __future__ import annotations

import random

import numpy as np
import torch

from pretrain.engine.random_state import random_state, set_random_state, unchanged_random_state


def draw() -> tuple:
    """Numbers of every global generator; numpy's and Python's normal draws keep a second number back."""
    return (torch.rand(3).tolist(), torch.randn(1).item(), np.random.rand(3).tolist(), np.random.randn(),
            random.random(), random.gauss(0, 1))


def test_a_saved_state_brings_the_same_numbers_back(tmp_path):
    """Through a file that is loaded without unpickling code, and in the middle of a pair of normal numbers."""
    draw()
    torch.save(random_state(), tmp_path / "state")
    expected = draw()
    draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected


def test_drawing_and_seeding_inside_leaves_no_trace():
    """Also where the block raises."""
    state = random_state()
    expected = draw()
    set_random_state(state)
    try:
        with unchanged_random_state():
            torch.manual_seed(1)
            draw()
            raise KeyError
    except KeyError:
        pass
    assert draw() == expected
