"""Errors that end a run without being input errors; the tools report them in one line."""

from __future__ import annotations

import signal


class RunFailedError(RuntimeError):
    """A run that cannot go on; the message says why and what to do.

    Args:
        message: why and what to do.
        output: what belongs on stdout all the same, such as the report of a check that failed.
    """

    exit_code = 1

    def __init__(self, message: str, output: str | None = None) -> None:
        super().__init__(message)
        self.output = output


class RunInterrupted(RunFailedError):
    """A run that a signal asked to stop and that has saved where it is; it can be resumed.

    Args:
        message: what happened and how to go on.
        signum: the signal.

    Attributes:
        exit_code: 130 after SIGINT, as a shell reports it. After every other signal 143, which is SIGTERM's: a job script
            looks for one code, whichever signal its scheduler sends.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + (signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM)
