"""Checkpoints: names, atomic writes, damage; export of backbones and their strict import.

``epoch_{E}.pth`` holds a run after E full epochs, ``epoch_{E}_iter_{N}.pth`` one after E full epochs and N iterations in
total. A file is written as ``.{name}.partial`` and gets its name when it is complete and synchronised with the disk.

An exported backbone is a ``torch.save`` file ``{"state_dict": ..., "meta": ...}``: the encoder's weights under
torchvision's names, loadable with ``weights_only=True`` by anybody (mmdet's ``init_cfg`` included), and a record of where
they come from. Import accepts that, a training checkpoint of ours, and a bare state dict; every encoder key must match,
only known extras (classifier, heads) may be left over.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.encoders import Encoder, build_encoder, encoder_spec

LAST_CHECKPOINT = "last_checkpoint"  # mmengine's convention: a text file that holds the newest checkpoint's path
RANDOM_STATES_KEY = "random_states"  # where a checkpoint keeps those of all processes, in rank order
RECORD_KEY = "pretraining"  # where a pretraining checkpoint keeps its record, see pretrain.engine.hooks.RecordHook
NEEDED_TO_RESUME = ("state_dict", "optimizer", "meta", RANDOM_STATES_KEY)
FORMAT = "loco-det-backbone"
FORMAT_VERSION = 2
ENCODER_PREFIX = "encoder."
KNOWN_EXTRAS = ("fc.", "heads.", "decoders.", "objectives.", "target.", "head.")  # "decoders." before version 2
_NAME = re.compile(r"epoch_(\d+)(?:_iter_(\d+))?\.pth")


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint, or not one of the encoder asked for."""


def checkpoint_name(epoch: int, iteration: int | None = None) -> str:
    """Name of the checkpoint after ``epoch`` full epochs, or within the next one after ``iteration`` iterations in total."""
    return f"epoch_{epoch}.pth" if iteration is None else f"epoch_{epoch}_iter_{iteration}.pth"


def checkpoint_files(work_dir: str | Path) -> list[Path]:
    """All checkpoints of a work directory, the newest first by the epoch and iteration of their names."""
    return sorted((file for file in Path(work_dir).glob("epoch_*.pth") if _NAME.fullmatch(file.name)),
                  key=_position, reverse=True)


def newest_intact(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that a run can be resumed from, if any, and a message for every newer one that is damaged."""
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
        CheckpointError: the file is missing, a folder, truncated or not a checkpoint.
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
    """Refuses a checkpoint that does not exist or is a folder, with a ``CheckpointError``."""
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
    with open(path, "rb") as file:
        digest = hashlib.sha256()
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


@dataclass(frozen=True)
class BackboneFile:
    """Encoder weights read from a file.

    Attributes:
        path: the file.
        sha256: hash of the whole file.
        state_dict: encoder weights under the encoder's own names; known extras are dropped.
        meta: the metadata record; empty for a bare state dict.
    """

    path: Path
    sha256: str
    state_dict: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def encoder(self) -> dict[str, Any] | None:
        """Config of the encoder; None where the file does not say."""
        return self.meta.get("setting", {}).get("encoder")


def export_backbone(checkpoint: str | Path, out: str | Path) -> dict[str, Any]:
    """Writes the bare encoder weights of a training checkpoint.

    Args:
        checkpoint: a checkpoint written by :func:`pretrain.run.pretrain`.
        out: the file to write; its folder is made.

    Returns:
        The metadata record: ``format``, ``version``, the checkpoint's (:class:`pretrain.engine.hooks.RecordHook`), and
        ``argv``, the command line.

    Raises:
        CheckpointError: the file is truncated, not a training checkpoint of ours, or its keys do not fit its encoder.
    """
    content = load_checkpoint(checkpoint)
    record = content.get(RECORD_KEY)
    if not isinstance(record, Mapping) or "method" not in record:
        raise CheckpointError(f"{checkpoint} is not a pretraining checkpoint (it has no {RECORD_KEY!r} record); "
                              "pass an epoch_*.pth that tools/pretrain.py wrote")
    backbone = read_backbone(checkpoint)
    load_into(build_encoder(backbone.encoder), backbone)  # proves that the keys are complete
    meta = {"format": FORMAT, "version": FORMAT_VERSION, **record, "argv": list(sys.argv)}
    out = Path(out)
    if out.is_dir():
        raise CheckpointError(f"{out} is a folder; name the file to write, such as {out / 'backbone.pth'}")
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": backbone.state_dict, "meta": meta}, partial_path(out))
    complete(out)
    return meta


def read_backbone(path: str | Path) -> BackboneFile:
    """Reads encoder weights from an exported backbone, a training checkpoint of ours, or a bare state dict.

    Raises:
        CheckpointError: the file cannot be read, holds no weights, or is of a newer version of the format.
    """
    path = Path(path)
    content = load_checkpoint(path)
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds no weights; an exported backbone, a training checkpoint or a state dict "
                              "is needed")
    kept = {str(key): value for key, value in weights.items() if not str(key).startswith(KNOWN_EXTRAS)}
    if any(key.startswith(ENCODER_PREFIX) for key in kept):
        # what stands beside the encoder must not slip in under an encoder's name: it stays unexpected
        kept = {key.removeprefix(ENCODER_PREFIX) if key.startswith(ENCODER_PREFIX) else f"<root>.{key}": value
                for key, value in kept.items()}
    return BackboneFile(path, file_sha256(path), kept, _record_of(path, content))


def _record_of(path: Path, content: Mapping) -> dict[str, Any]:
    """The record in a file; empty of files from elsewhere, and of those of version 1, which did not describe its method."""
    meta = content.get("meta")
    exported = isinstance(meta, Mapping) and meta.get("format") == FORMAT
    if exported and meta.get("version", 1) > FORMAT_VERSION:
        raise CheckpointError(f"{path} has version {meta['version']} of the format, but this package knows up to "
                              f"{FORMAT_VERSION}; update the package")
    record = meta if exported else content.get(RECORD_KEY)
    return dict(record) if isinstance(record, Mapping) and isinstance(record.get("method"), Mapping) else {}


def load_into(encoder: Encoder, backbone: BackboneFile, expected: str | Mapping | None = None) -> None:
    """Loads weights into an encoder, strictly.

    Counters of batch norm (``num_batches_tracked``), which files from before torch 0.4.1 do not have, may be missing.

    Args:
        encoder: takes the weights.
        backbone: what :func:`read_backbone` returned.
        expected: the encoder's name or config, compared with the file's record where it has one.

    Raises:
        CheckpointError: the file is of another encoder, keys are missing, unexpected or of another shape (the first
            five are named), or a weight is not finite.
    """
    if expected is not None and backbone.encoder is not None:
        check_same_encoder(backbone.path, backbone.encoder, expected)
    own = encoder.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    given = {**counters, **backbone.state_dict}
    problems = state_dict_problems(own, given)
    if problems:
        wanted = "" if expected is None else f" {_format_encoder(expected)}"
        raise CheckpointError(f"{backbone.path} does not fit the encoder{wanted}; keys: {problems}")
    encoder.load_state_dict(given, strict=True)


def check_same_encoder(path: str | Path, found: str | Mapping, expected: str | Mapping) -> None:
    """Compares the encoder of a file with the one that is needed, each a name or config.

    Raises:
        CheckpointError: they differ.
    """
    if encoder_spec(found) != encoder_spec(expected):
        raise CheckpointError(f"{path} holds the encoder {_format_encoder(found)}, but {_format_encoder(expected)} is "
                              "needed; pass a file of that encoder or change the config's encoder")


def state_dict_problems(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> str:
    """What keeps the weights ``given`` from being loaded in place of ``own``, with the first five keys; empty if nothing."""
    problems = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": sorted(k for k in own.keys() & given.keys() if getattr(given[k], "shape", None) != own[k].shape),
    }
    if not any(problems.values()):
        problems["not finite"] = sorted(key for key, value in given.items() if not value.isfinite().all())
    return "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''})"
        for kind, keys in problems.items() if keys
    )


def _format_encoder(spec: str | Mapping) -> str:
    spec = encoder_spec(spec)
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(spec.items()) if key != "type")
    return f"{spec['type']}({options})" if options else str(spec["type"])
