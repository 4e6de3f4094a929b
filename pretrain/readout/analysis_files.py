"""Results of tools/analyze.py: where they are written, and how figures and tables find them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from pretrain import distributed
from pretrain.methods import Method, method_of_record, named_method
from pretrain.readout.results import (
    RANDOM_FOLDER,
    check_writable,
    file_name,
    finished_result,
    result_file,
    versions,
)
from pretrain.readout.runs import ReadoutFileError, initialisation, read_json
from pretrain.work_dir import git_revision, write_json

PREFIX = "analysis_"  # of the kinds, "analysis_probes", and of the files
# What every record of an analysis has beside kind, method and checkpoint, in the form that docs/subsampling.md tells.
FIELDS = {
    "probes": ("encoder", "data", "protocol", "blocks"),
    "spectrum": ("encoder", "data", "images", "points"),
    "kept": ("encoder", "units", "iterations", "epochs", "kept_positive", "kept_negative", "last_epoch"),
    "memory": ("encoder", "batch_size", "image_size", "peak_bytes", "optimizer_bytes", "unit_macs", "largest_unit_macs"),
}


def kind_of(what: str) -> str:
    """The ``kind`` in records of an analysis, a key of :data:`FIELDS`.

    Raises:
        ValueError: there is no such analysis.
    """
    if what not in FIELDS:
        raise ValueError(f"analysis {what!r} is unknown; choose of {', '.join(FIELDS)}")
    return PREFIX + what


@dataclass(frozen=True)
class Analysis:
    """What is analysed, and where the record of it goes.

    Attributes:
        what: a key of :data:`FIELDS`.
        file: checkpoint as the user gave it, ``"random"``, or a config file.
        settings: all that the result depends on, with ``encoder`` (its origin) and ``seed``, and ``data`` where images are
            looked at.
        variant: a word for each setting that is not the default, so that analyses of one checkpoint have files of their own.
        out: file of the record; None for :func:`analysis_file`.
        resume: do not repeat a finished analysis of the same settings.
    """

    what: str
    file: str
    settings: Mapping[str, Any]
    variant: tuple[str, ...] = ()
    out: str | None = None
    resume: bool = False

    @property
    def path(self) -> Path:
        """File of the record."""
        settings = self.settings
        return Path(self.out or analysis_file(self.what, self.file, settings["encoder"]["encoder"], settings["seed"],
                                              settings.get("data"), self.variant))


def record_analysis(analysis: Analysis, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Measures, unless the result is there already, and writes the record, in the first of the processes.

    Args:
        analysis: what to record.
        measure: returns what else belongs in the record; its ``data`` take the place of the settings'.

    Raises:
        ValueError: the record cannot be written, or would overwrite one of other settings.
    """
    settings, path = {"kind": kind_of(analysis.what), **analysis.settings}, analysis.path
    check_writable(path)
    known = finished_result(path, settings)
    if known is not None and analysis.resume:
        print_log(f"{path} is finished", logger="current")
        return known
    started = time.perf_counter()
    measured = measure()
    method = method_of_origin(settings["encoder"]).label
    record = {"kind": settings["kind"], "method": method, "checkpoint": analysis.file, **settings, **measured,
              "versions": versions(), "git_revision": git_revision(), "duration_s": round(time.perf_counter() - started, 3)}
    if distributed.rank() == 0:
        write_json(path, record)
        print_log(f"result written to {path}", logger="current")
    return record


def method_of_origin(origin: Mapping[str, Any]) -> Method:
    """The way an encoder was trained: by its record, ``random``, ``supervised``, or else called as its file.

    Args:
        origin: of the encoder, see :func:`~pretrain.readout.encoders.load_encoder`.
    """
    if "rule" in origin["meta"]:
        return method_of_record(origin["meta"])
    return named_method(initialisation(origin) or Path(origin["file"]).stem)


def analysis_file(
    what: str,
    file: str,
    encoder: Mapping[str, Any],
    seed: int,
    data: Mapping[str, Any] | None = None,
    variant: Iterable[str] = (),
) -> Path:
    """Where a record is written unless the user says where.

    Args:
        what: a key of :data:`FIELDS`.
        file: checkpoint as the user gave it, ``"random"``, or a config file.
        encoder: the encoder's config.
        seed: of the analysis.
        data: the record of the images; None where none are looked at.
        variant: a word for each setting that is not the default.

    Returns:
        ``<checkpoint without suffix>.readout/analysis_<what>[_<data set>][_<variant>].json``, see
        :func:`~pretrain.readout.results.result_file`; of a config file below ``work_dirs/readout/``.
    """
    if Path(file).suffix == ".py":
        name = file_name("_".join([kind_of(what), *variant]))
        return RANDOM_FOLDER / f"{file_name(Path(file).stem)}.readout" / f"{name}.json"
    return result_file(kind_of(what), file, encoder, data, seed, variant)


def read_analyses(paths: Iterable[str | Path], what: str) -> list[dict[str, Any]]:
    """The records of one analysis: of files as they are given, and of folders every one below.

    Args:
        paths: files that tools/analyze.py wrote, or folders, such as work directories.
        what: a key of :data:`FIELDS`; records of other analyses in folders are passed over.

    Returns:
        Records in the order of the arguments, those of a folder sorted by path; each file once.

    Raises:
        ReadoutFileError: a path does not exist, a file is damaged or no record of this analysis, or there is none at all.
    """
    kind, paths = kind_of(what), [Path(path) for path in paths]
    records: dict[Path, dict[str, Any]] = {}
    for path in paths:
        if not path.exists():
            raise ReadoutFileError(f"{path} does not exist; pass what tools/analyze.py --what {what} wrote, or a folder "
                                   "above some")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            if path.is_dir() and not _may_hold(file, kind):
                continue
            record = read_json(file)
            if isinstance(record, dict) and record.get("kind") == kind:
                records.setdefault(file.resolve(), _checked(file, record, what))
            elif not path.is_dir():
                raise ReadoutFileError(f"{file} is no result of tools/analyze.py --what {what}; pass one, or a folder above "
                                       "some")
    if not records:
        raise ReadoutFileError(f"no results of tools/analyze.py --what {what} below {', '.join(map(str, paths))}; run "
                               f"tools/analyze.py CHECKPOINT --what {what} first")
    return list(records.values())


def _may_hold(file: Path, kind: str) -> bool:
    """Whether a file in a folder is named as a record of this kind, or begins like one."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return file.name.startswith(kind) or f'"{kind}"'.encode() in content.read(64)


def _checked(file: Path, record: dict[str, Any], what: str) -> dict[str, Any]:
    lacking = [key for key in ("method", "checkpoint", *FIELDS[what]) if key not in record]
    if lacking:
        raise ReadoutFileError(f"{file} is a damaged result of tools/analyze.py: it lacks {', '.join(lacking)}; run "
                               f"tools/analyze.py CHECKPOINT --what {what} again, or remove the file")
    return record
