"""One function over many items in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS_PER_WORKER = 8  # for fewer a process is not worth its start, about a second


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None, *, description: str
) -> list[Result]:
    """``[function(item) for item in items]``, shared by spawned processes, with a bar where stderr is a terminal.

    Args:
        function: at the top level of a module that imports little, as workers import it.
        items: its arguments.
        workers: number of processes; None for as many as there are cores and the items are worth.
        description: what the bar says.

    Raises:
        ValueError: ``workers`` is less than 1.
        Exception: the first, in the items' order, that ``function`` raised.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(cores, len(items) // MIN_ITEMS_PER_WORKER))
    if workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed")

    def with_bar(results):
        return list(tqdm(results, desc=description, total=len(items), file=sys.stderr, disable=None))

    if workers == 1:
        return with_bar(map(function, items))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        return with_bar(executor.map(function, items, chunksize=MIN_ITEMS_PER_WORKER))
