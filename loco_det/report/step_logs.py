"""What the steps of the demo printed, where that was kept, and whether they failed."""

from __future__ import annotations

import re
from pathlib import Path

STEP_LOGS = "logs"  # the folder beside the work directories
TAIL_LINES = 30
LAST_LINES = 8  # within which a log that ends in an error names it: messages have several lines, and warnings may follow
_ERROR = re.compile(r"error: |(\w+\.)*\w+(Error|Exception|Interrupt)\b")
_LOGGED = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - mmengine")


def what_stopped(folder: Path) -> tuple[str, str]:
    """The error that the step of a work directory ended in, and the end of its log; empty where there is none."""
    return last_error(folder.resolve().parent / STEP_LOGS / f"{folder.resolve().name}.log")


def last_error(log: Path) -> tuple[str, str]:
    """The error that a log ends in, and the end of the log; empty where it ends otherwise.

    An error after which the run went on does not count: neither a line far from the end, nor one that mmengine logged after.
    """
    if not log.is_file():
        return "", ""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    whole = [line for line in lines if line.strip() and not line[0].isspace()]  # not the further lines of a message
    for line in reversed(whole[-LAST_LINES:]):
        if _LOGGED.match(line):
            break
        if _ERROR.match(line):
            return line, "\n".join(lines[-TAIL_LINES:])
    return "", ""
