"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pretrain.errors import RunFailedError

CLAIM_NAME = ".claim"


@contextlib.contextmanager
def claim_run(folder: str | Path) -> Iterator[None]:
    """Keeps other processes out of a run's folder, which is made, while this one works in it.

    The claim is a POSIX lock on a file that names host and process. The system releases it with the process, however that
    ends, so that a killed run can be resumed at once; child processes do not inherit it.

    Raises:
        RunFailedError: another process is running there.
    """
    file = Path(folder) / CLAIM_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+") as claim:
        try:
            fcntl.lockf(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            claim.seek(0)
            raise RunFailedError(f"{claim.read().strip() or 'another process'} is already running in {folder}; wait for it, "
                                 "or stop it") from error
        claim.truncate(0)
        claim.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        claim.flush()
        yield
