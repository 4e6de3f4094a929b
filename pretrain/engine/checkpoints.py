"""The checkpoint files of a run: their names and order, writing them whole or not at all, and telling intact ones.

``epoch_{E}.pth`` holds a run after E full epochs, ``epoch_{E}_iter_{N}.pth`` one after E full epochs and N iterations in
total. A file under such a name was written to its end and synchronised with the disk before it got the name; until then it
is called ``.{name}.partial``.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

LAST_CHECKPOINT = "last_checkpoint"  # mmengine's convention: a text file that holds the newest checkpoint's path
RANDOM_STATES_KEY = "random_states"  # where a checkpoint keeps those of all processes, in rank order
NEEDED_TO_RESUME = ("state_dict", "optimizer", "meta", RANDOM_STATES_KEY)
_NAME = re.compile(r"epoch_(\d+)(?:_iter_(\d+))?\.pth")


class CheckpointError(ValueError):
    """A file that is no usable checkpoint, or not one of the encoder asked for; the message names file, reason and mend."""


def checkpoint_name(epoch: int, iteration: int | None = None) -> str:
    """Name of the checkpoint after ``epoch`` full epochs, or within the next one after ``iteration`` iterations in total."""
    return f"epoch_{epoch}.pth" if iteration is None else f"epoch_{epoch}_iter_{iteration}.pth"


def checkpoint_files(work_dir: str | Path) -> list[Path]:
    """All checkpoints of a work directory, the newest first by the epoch and iteration of their names."""
    return sorted((file for file in Path(work_dir).glob("epoch_*.pth") if _NAME.fullmatch(file.name)),
                  key=_position, reverse=True)


def newest_intact(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that a run can be resumed from.

    Args:
        work_dir: need not exist.

    Returns:
        The file, None where no checkpoint is intact; and a message for every newer one that is damaged, which names it.
    """
    damaged = []
    for file in checkpoint_files(work_dir):
        try:
            check_intact(file)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return file, damaged
    return None, damaged


def check_intact(file: Path) -> None:
    """Reads a checkpoint to its end.

    Raises:
        CheckpointError: it is truncated, a bit of it has changed, it needs code to be unpickled (``weights_only=False``), or
            it lacks what a run is resumed from.
    """
    lacking = [key for key in NEEDED_TO_RESUME if key not in load_checkpoint(file)]
    if lacking:
        raise CheckpointError(f"{file} cannot be resumed from: it lacks {', '.join(lacking)}")
    try:
        with zipfile.ZipFile(file) as archive:  # torch writes checksums but does not compare them when it loads
            damaged = archive.testzip()
    except Exception as error:  # bits that have changed in its tables
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if damaged is not None:
        raise CheckpointError(f"{file} is damaged: the checksum of its part {damaged} is wrong")


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """``torch.load`` on the CPU with ``weights_only=True``.

    Raises:
        CheckpointError: the file is missing, a folder, truncated or no checkpoint.
    """
    path = Path(path)
    check_is_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken pickles raise nearly anything
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {_why_unreadable(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a dict")
    return content


def check_is_file(path: Path) -> None:
    """Refuses a checkpoint that is not there.

    Raises:
        CheckpointError: it is not, or it is a folder; of a work directory, the message names the newest checkpoint.
    """
    if path.is_dir():
        newest = next(iter(checkpoint_files(path)), "a checkpoint file")
        raise CheckpointError(f"{path} is a folder, but a checkpoint is needed; pass {newest}")
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")


def _why_unreadable(error: Exception) -> str:
    """Why ``torch.load`` failed; without its advice to set ``weights_only=False``, which lets a file run any code."""
    text = str(error).strip()
    if isinstance(error, pickle.UnpicklingError):
        needed = re.search(r"Unsupported global: GLOBAL (\S+)", text)
        return (f"it holds objects of {needed[1]}, but only weights and plain data are read; save its state dict alone"
                if needed else "torch.save has not written it")
    return text.splitlines()[0] if text else type(error).__name__


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def partial_path(path: Path) -> Path:
    """Where a file is written before it is complete: in the same folder, so that it can be renamed."""
    return path.with_name(f".{path.name}.partial")


def complete(path: Path) -> None:
    """Gives a written :func:`partial_path` its name ``path``, which after a crash is there with all its content or not."""
    partial = partial_path(path)
    _synchronise(partial)
    os.replace(partial, path)
    _synchronise(path.parent)


def point_to_last(path: Path) -> None:
    """Makes ``path`` what mmengine's tools find as the work directory's last checkpoint."""
    pointer = path.with_name(LAST_CHECKPOINT)
    partial_path(pointer).write_text(str(path), encoding="utf-8")
    complete(pointer)


def remove_partial(work_dir: str | Path) -> list[str]:
    """Deletes what killed runs left unfinished; returns the names."""
    stale = [*Path(work_dir).glob(".epoch_*.pth.partial"), *Path(work_dir).glob(f".{LAST_CHECKPOINT}.partial")]
    for file in stale:
        file.unlink()
    return [file.name for file in stale]


def remove_superseded(newest: Path, max_keep: int, previous: Path | None = None) -> None:
    """Deletes the checkpoints that a complete one makes superfluous.

    Args:
        newest: just completed; all others within an epoch go.
        max_keep: how many checkpoints of full epochs stay, up to that of ``newest``; -1 for all.
        previous: stays in any case: the checkpoint that the run, known to be good until now, saved or began with before.
    """
    files = [file for file in checkpoint_files(newest.parent) if file != newest]
    superfluous = [file for file in files if _is_within_epoch(file)]
    if max_keep > 0:
        epochs = [file for file in files if not _is_within_epoch(file) and _position(file) < _position(newest)]
        superfluous += epochs[max_keep if _is_within_epoch(newest) else max_keep - 1 :]
    for file in superfluous:
        if file != previous:
            file.unlink()


def _position(file: Path) -> tuple[int, int]:
    epoch, iteration = _NAME.fullmatch(file.name).groups(default="0")
    return int(epoch), int(iteration)


def _is_within_epoch(file: Path) -> bool:
    return _NAME.fullmatch(file.name)[2] is not None


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
