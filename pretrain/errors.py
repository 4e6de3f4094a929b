"""Ends of a run that are nobody's typing mistake; the tools tell them in one line."""

from __future__ import annotations


class RunFailedError(RuntimeError):
    """A run that cannot go on; the message says why and what to do."""

    exit_code = 1


class RunInterrupted(RunFailedError):
    """A run that was asked to stop (SIGTERM) and has saved where it is; it can be resumed."""

    exit_code = 143  # 128 + SIGTERM, as a shell reports it
