"""The loop's parts: states of the random number generators as plain data, and signal handlers that are lent."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import torch

from pretrain.engine.loop import STOP_SIGNALS, StopRequest, random_state, set_random_state, unchanged_random_state


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


def test_signal_handlers_are_lent():
    """Inside, a signal is noted; afterwards it does what it did before, and a second SIGINT already inside."""
    came = []
    previous = [signal.signal(number, lambda signum, frame: came.append(signum)) for number in STOP_SIGNALS]
    try:
        with StopRequest() as request:
            assert request.signum == 0
            os.kill(os.getpid(), signal.SIGUSR1)
            assert request.signum == signal.SIGUSR1
            os.kill(os.getpid(), signal.SIGINT)
            assert (request.signum, came) == (signal.SIGINT, [])
            os.kill(os.getpid(), signal.SIGINT)
            assert came == [signal.SIGINT]
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
        assert came[1:] == list(STOP_SIGNALS)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.signum == 0  # a background job's SIGINT is not for it
    finally:
        for number, handler in zip(STOP_SIGNALS, previous, strict=True):
            signal.signal(number, handler)
