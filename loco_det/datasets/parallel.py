"""One function over many items in several processes, with a progress bar."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from pretrain.errors import RunFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")

MIN_ITEMS_PER_WORKER = 8  # for fewer a process is not worth its start, about a second
MAX_CHUNK = 8


def map_in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int | None = None,
    *,
    description: str,
    unit: str = "image",
) -> list[Result]:
    """``[function(item) for item in items]``, shared by worker processes, with a bar where stderr is a terminal.

    The processes are spawned, which is safe beside threads and CUDA: ``function`` and items are pickled, and workers import
    the function's module, which should therefore import little.

    Args:
        function: at the top level of a module.
        items: its arguments.
        workers: how many processes; None for as many as this process may use cores and the items are worth. With one,
            nothing is spawned.
        description: what the bar says.
        unit: what an item is.

    Returns:
        The results in the order of the items.

    Raises:
        ValueError: ``workers`` is less than 1.
        RunFailedError: a worker was killed.
        Exception: the first, in the items' order, that ``function`` raised; items that nobody has begun are left.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; at least one is needed")
    if workers is None:
        workers = min(usable_cores(), len(items) // MIN_ITEMS_PER_WORKER)
    progress = functools.partial(tqdm, desc=description, total=len(items), unit=unit, file=sys.stderr, disable=None)
    if workers <= 1 or len(items) <= 1:
        return list(progress(map(function, items)))
    workers = min(workers, len(items))
    chunk = max(1, min(MAX_CHUNK, math.ceil(len(items) / (4 * workers))))
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        return list(progress(executor.map(function, items, chunksize=chunk)))
    except BrokenProcessPool as error:
        raise RunFailedError(f"{description}: a worker process was killed, perhaps for want of memory; try again with fewer "
                             f"workers than {workers}") from error
    finally:
        executor.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may run on: a job of a cluster often has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
