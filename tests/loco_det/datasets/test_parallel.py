"""A function over items in several processes: the results of one, and its errors told as they are."""

from __future__ import annotations

import math
import os

import pytest

from loco_det.datasets.parallel import map_in_processes
from pretrain.errors import RunFailedError


@pytest.mark.parametrize("workers", [1, 2, None])
def test_results_are_in_the_items_order(workers):
    """Whoever computes them; of one item and of none, too."""
    for count in (20, 1, 0):
        assert map_in_processes(math.sqrt, range(count), workers, description="roots") == list(map(math.sqrt, range(count)))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_is_raised(workers):
    """In the items' order, whichever comes first in time."""
    with pytest.raises(ValueError, match="base 40") as error:
        map_in_processes(_refuse_from_40, range(100), workers, description="numbers")
    assert error.type is ValueError


def _refuse_from_40(number: int) -> int:
    if number >= 40:
        raise ValueError(f"base {number}")
    return number


def test_a_killed_worker_is_told():
    """One line with what to do, not a hang."""
    with pytest.raises(RunFailedError, match="roots: a worker process was killed.*fewer workers than 2"):
        map_in_processes(os._exit, [3, 3], 2, description="roots")


def test_no_workers_are_refused():
    """The number is named."""
    with pytest.raises(ValueError, match="workers is 0; at least one"):
        map_in_processes(math.sqrt, [1], 0, description="roots")
