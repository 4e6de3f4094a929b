"""Where results are: what may hold a record, found within a moment and without importing what reads it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pretrain.engine.work_dir import RECORD_NAME

FORMAT = "loco-det-run"
HEAD_BYTES = 64  # in which a record names its format
SCALARS = "*/vis_data/scalars.json"  # mmengine's, one JSON object a line, one file for every start of the run


class RecordError(ValueError):
    """Records that are missing or cannot be used; the message names file, reason and fix."""


def record_files(folder: Path) -> Iterator[Path]:
    """Files below a folder that are records, intact or not: what is called ``run.json``, and JSON that names the format."""
    return filter(_may_be_record, sorted(folder.rglob("*.json")))


def check_any_results(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuses folders without any file of results, before a tool imports what takes seconds.

    Raises:
        RecordError: there is neither a record nor a training log in any of the paths; a path that is a file is not looked
            into.
    """
    paths = list(map(Path, paths))
    if not any(path.is_file() or any(path.glob(SCALARS)) or any(record_files(path)) for path in paths):
        raise no_results(paths)


def no_results(paths: Iterable[str | os.PathLike[str]], *details: str) -> RecordError:
    """The error for paths without results."""
    where = ", ".join(map(str, paths))
    message = f"no results below {where}; run tools/pretrain.py, an evaluation or tools/train_det.py first"
    return RecordError("; ".join([message, *details]))


def _may_be_record(file: Path) -> bool:
    if not file.is_file():  # such as a named pipe
        return False
    if file.name == RECORD_NAME:
        return True
    try:
        with file.open("rb") as content:
            return f'"{FORMAT}"'.encode() in content.read(HEAD_BYTES)
    except OSError:
        return False
