"""Locks between commands that work in one directory, on one machine or on a shared file system that has locks."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from pretrain.errors import RunFailedError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_one_process(folder: Path) -> Iterator[None]:
    """Keeps others out of a folder; the lock goes with the process, however that ends.

    Raises:
        RunFailedError: another process is in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFailedError(f"another command is at work in {folder}; wait for it, or end it") from error
        yield
