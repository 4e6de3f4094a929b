"""What a report is made of: the records below some folders, the runs that they are of, and what could not be used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from loco_det.report.step_logs import STEP_LOGS, last_error, what_stopped
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.figures.analyses import DETAILS
from pretrain.results.method import RULE_LABELS, dataset_name, leaves, shown_method, unique_labels
from pretrain.results.store import ANALYSIS, DETECTION, PRETRAINING, Record, find_records, frame_of
from pretrain.results.table import Results, general_table
from pretrain.results.training_log import has_training_log, read_training_log

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"
ERROR_FILE = "error.txt"  # of a split: loco_det.experiment.experiment's


@dataclass(frozen=True)
class Run:
    """One work directory of a pretraining or a detection experiment.

    Attributes:
        path: of the directory.
        kind: :data:`PRETRAINING` or :data:`DETECTION`.
        method: label of what was trained.
        state: :data:`FINISHED`, :data:`UNFINISHED` or :data:`FAILED`.
        progress: how far it came.
        problems: the short form and the whole text of every message.
        record: its record; None of a step of the demo that ended before it had claimed its directory.
        splits: of a detection experiment, records of those that are finished, by number.
    """

    path: Path
    kind: str
    method: str
    state: str
    progress: str
    problems: Sequence[tuple[str, str]] = ()
    record: Record | None = None
    splits: Mapping[int, Record] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def content(self) -> Mapping[str, Any]:
        """The record's content; empty without one."""
        return {} if self.record is None else self.record.content

    @property
    def data(self) -> str:
        """Name of the data set."""
        return "" if self.record is None else dataset_of(self.record)

    @property
    def seconds(self) -> float | None:
        """How long it ran, as far as that is recorded."""
        known = [content["duration_s"] for content in (self.content, *(split.content for split in self.splits.values()))
                 if content.get("duration_s") is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Inputs:
    """What a report is made of.

    Attributes:
        directories: as they were given.
        records: all that can be used.
        frame: their measurements, see :func:`pretrain.results.store.frame_of`.
        labels: unique label of every method by key.
        runs: work directories of pretrainings, then those of detection experiments, in the order of methods.
        issues: a line for each file that could not be used.
    """

    directories: Sequence[Path]
    records: Sequence[Record]
    frame: pd.DataFrame
    labels: Mapping[str, str]
    runs: Sequence[Run]
    issues: Sequence[str]

    def of_kind(self, kind: str) -> list[Run]:
        """The runs of a kind that have a record."""
        return [run for run in self.runs if run.kind == kind and run.record is not None]

    @property
    def evaluations(self) -> list[Record]:
        """Records of evaluations and analyses."""
        return [record for record in self.records if record.kind not in (PRETRAINING, DETECTION)]


def read_inputs(directories: Iterable[str | Path]) -> Inputs:
    """Reads all records below some folders.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing to report of.
    """
    directories = [Path(directory) for directory in directories]
    for directory in directories:
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory} is not a folder; pass work directories, or folders above several")
    found, issues = find_records(directories)
    records = []
    for record in found:
        try:
            _check(record)
            records.append(record)
        except Exception as error:  # whatever a damaged file may lead to
            issues.append(f"{record.path} cannot be used ({type(error).__name__}: {error})")
    frame, conflicts = frame_of(records)
    labels = unique_labels(record.method for record in records)
    runs, failed = _runs(records, labels)
    runs += _steps_without_record(directories, {run.name for run in runs})
    issues += [*conflicts, *failed]
    if not (records or runs or issues):
        raise ValueError(f"nothing to report below {', '.join(map(str, directories))}, neither run.json nor results; pass "
                         "work directories of tools/pretrain.py or tools/train_det.py, or folders above them")
    return Inputs(directories, records, frame, labels, sorted(runs, key=lambda run: run.kind != PRETRAINING), issues)


def dataset_of(record: Record) -> str:
    """Name of the data set that was trained or evaluated on."""
    if record.kind == PRETRAINING:
        return dataset_name(record.setting["data"])
    return str(record.content.get("dataset") or next((row["dataset"] for row in record.content["rows"]), ""))


def options_text(value: Any) -> str:
    """``{"type": "AdamW", "lr": 0.1}`` as ``AdamW (lr=0.1)``, each of a list's in turn; empty for None."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "; ".join(map(options_text, value))
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    rest = ", ".join(f"{name}={leaf}" for name, leaf in leaves({key: value[key] for key in value if key != "type"}))
    name = str(value.get("type", ""))
    return f"{name} ({rest})" if name and rest else name or rest


def _check(record: Record) -> None:
    """Tries what a report does with a record by itself.

    Raises:
        Exception: of whatever kind, where the record is damaged.
    """
    general_table(Results(frame_of([record])[0], [record]))
    dataset_of(record)
    if record.kind == ANALYSIS:
        needed = DETAILS.get(record.content["protocol"]["name"], ())
        lacking = [key for key in needed if key not in record.content["details"]]
        if lacking:
            raise ValueError(f"it lacks {', '.join(lacking)}")


def _runs(records: Sequence[Record], labels: Mapping[str, str]) -> tuple[list[Run], list[str]]:
    """The runs that records are of, and a line for each that cannot be read."""
    runs, issues = [], []
    by_folder = {record.path.parent.resolve(): record for record in records if record.kind == DETECTION}
    for record in sorted(records, key=lambda record: shown_method(record.method).order):
        try:
            if record.kind == PRETRAINING:
                runs.append(_pretraining(record, labels[record.method["key"]]))
            elif record.kind == DETECTION and "num_splits" in record.content:
                folder = record.path.parent.resolve()
                splits = {index: by_folder[folder / f"split_{index}"] for index in range(record.content["num_splits"])
                          if folder / f"split_{index}" in by_folder}
                runs.append(_detection(record, labels[record.method["key"]], splits))
        except Exception as error:  # whatever a damaged file may lead to
            issues.append(f"{record.path.parent} cannot be used ({type(error).__name__}: {error})")
    return runs, issues


def _pretraining(record: Record, label: str) -> Run:
    folder, total = record.path.parent, record.setting["epochs"]
    files = checkpoint_files(folder)
    saved = int(files[0].stem.split("_")[1]) if files else 0
    done = min(max(saved, _epochs_logged(folder)), total)
    finished = saved == total or done == total and not files  # whose checkpoints were deleted
    progress = f"{done} of {total} epochs"
    if saved < done:
        progress += f", last checkpoint of epoch {saved}" if files else ", checkpoint not here"
    message, log = ("", "") if finished else what_stopped(folder)
    state = FINISHED if finished else FAILED if message else UNFINISHED
    return Run(folder, PRETRAINING, label, state, progress, [(message, log)] if message else [], record)


def _epochs_logged(folder: Path) -> int:
    """Full epochs, including one whose remaining iterations are too few to be logged again."""
    if not has_training_log(folder):
        return 0
    progress = [0.0, *read_training_log(folder).progress()]
    interval = progress[-1] - progress[-2] if len(progress) > 2 else 0.0
    return math.floor(max(progress[-1], progress[-1] + interval - 1e-6))


def _detection(record: Record, label: str, splits: Mapping[int, Record]) -> Run:
    folder, total = record.path.parent, record.content["num_splits"]
    open_splits = [folder / f"split_{index}" for index in range(total) if index not in splits]
    problems = []
    for split in open_splits:
        if (split / ERROR_FILE).is_file():
            text = (split / ERROR_FILE).read_text(encoding="utf-8", errors="replace")
            problems.append((f"{split.name}: {(text.strip().splitlines() or ['no message'])[-1]}", text))
    if open_splits and not problems and (stopped := what_stopped(folder))[0]:
        problems = [stopped]
    begun = [split.name for split in open_splits if split.is_dir()]
    progress = f"{len(splits)} of {total} split{'s' * (total != 1)}" + (f", begun: {', '.join(begun)}" if begun else "")
    state = FAILED if problems else UNFINISHED if open_splits else FINISHED
    return Run(folder, DETECTION, label, state, progress, problems, record, splits)


def _steps_without_record(directories: Iterable[Path], known: set[str]) -> list[Run]:
    """Steps of the demo that ended before they had claimed their work directories."""
    runs = []
    logs = {log.resolve(): log for directory in directories for log in sorted((directory / STEP_LOGS).glob("*.log"))}
    for log in logs.values():
        if log.stem not in known:
            message, tail = last_error(log)
            kind = PRETRAINING if log.stem.startswith("pretrain") else DETECTION
            rule = log.stem.rpartition("_")[2]
            state, problems = (FAILED, [(message, tail)]) if message else (UNFINISHED, [])
            folder, label = log.parent.parent / log.stem, RULE_LABELS.get(rule, rule)
            runs.append(Run(folder, kind, label, state, "nothing done", problems))
    return runs
