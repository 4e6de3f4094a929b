"""What a report is made of: the records below some folders, the runs that they are of, and what could not be used."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from loco_det.experiment.inputs import ERROR_FILE
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.engine.work_dir import RECORD_NAME
from pretrain.results.method import dataset_name, leaves, shown_method, unique_labels
from pretrain.results.store import DETECTION, PRETRAINING, Record, find_records, frame_of, read_record
from pretrain.results.table import Results, general_table

FINISHED, UNFINISHED, FAILED = "finished", "unfinished", "failed"


@dataclass(frozen=True)
class Run:
    """One work directory of a pretraining or a detection experiment.

    Attributes:
        record: its record.
        method: unique label of what was trained.
        state: :data:`FINISHED`, :data:`UNFINISHED` or :data:`FAILED`.
        progress: how far it came.
        splits: of a detection experiment, records of those that are finished.
        error: the traceback that it failed with; empty where it has not.
    """

    record: Record
    method: str
    state: str
    progress: str
    splits: Sequence[Record] = ()
    error: str = ""

    @property
    def path(self) -> Path:
        """The work directory."""
        return self.record.path.parent

    @property
    def seconds(self) -> float | None:
        """How long it ran, as far as that is recorded."""
        durations = [record.content.get("duration_s") for record in (self.record, *self.splits)]
        known = [duration for duration in durations if duration is not None]
        return sum(known) if known else None

    @property
    def facts(self) -> dict[str, str]:
        """All that is known of it, in words; what is empty is left out."""
        content = self.record.content
        method = {key: value for key, value in self.record.method.items() if key not in ("key", "label", "loss")}
        facts: dict[str, Any] = {**method, **self.record.setting, **content["repetition"]}
        if backbone := content.get("backbone"):
            facts["backbone file"] = f"{backbone['path']} (SHA-256 {backbone['sha256'][:12]}…)"
        facts |= {name: content.get(name) for name in ("data_root", "started", "processes", "machine", "versions")}
        facts["revision"] = content.get("git_revision")
        return {name.replace("_", " "): text for name, value in facts.items() if (text := options_text(value))}

    @property
    def commands(self) -> list[str]:
        """The command lines that were typed, for the backbone and the run."""
        exported = (self.record.content.get("backbone") or {}).get("argv")
        return [command_text(argv) for argv in (exported, self.record.content.get("argv")) if argv]


@dataclass(frozen=True)
class ReportInputs:
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
        """The runs of a kind."""
        return [run for run in self.runs if run.record.kind == kind]

    @property
    def evaluations(self) -> list[Record]:
        """Records of evaluations and analyses."""
        return [record for record in self.records if record.kind not in (PRETRAINING, DETECTION)]


def read_inputs(directories: Iterable[str | Path]) -> ReportInputs:
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
    if not found and not issues:
        raise ValueError(f"nothing to report below {', '.join(map(str, directories))}, neither run.json nor results; pass "
                         "work directories of tools/pretrain.py or tools/train_det.py, or folders above them")
    labels = unique_labels(record.method for record in found)
    records, runs = [], []
    for record in sorted(found, key=lambda record: (record.kind != PRETRAINING, shown_method(record.method).order)):
        try:
            general_table(Results(frame_of([record])[0], [record]))
            run = _run(record, labels[record.method["key"]])
        except Exception as error:  # whatever a damaged record may lead to: it must not cost its reader the others
            issues.append(f"{record.path} cannot be used ({type(error).__name__}: {error})")
            continue
        records.append(record)
        runs += [run] if run else []
    frame, conflicts = frame_of(records)
    return ReportInputs(directories, records, frame, labels, runs, [*issues, *conflicts])


def _run(record: Record, label: str) -> Run | None:
    """The run that a record is of; None of an evaluation's, an analysis's or a split's."""
    folder = record.path.parent
    dataset_of(record)
    if record.kind == PRETRAINING:
        total, files = record.setting["epochs"], checkpoint_files(folder)
        done = int(files[0].stem.split("_")[1]) if files else 0
        return Run(record, label, FINISHED if done == total else UNFINISHED, f"{done} of {total} epochs")
    if record.kind != DETECTION or "num_splits" not in record.content:
        return None
    total = record.content["num_splits"]
    files = [folder / f"split_{index}" / RECORD_NAME for index in range(total)]
    splits = [read_record(file) for file in files if file.is_file()]
    errors = [file.with_name(ERROR_FILE) for file in files if not file.is_file() and file.with_name(ERROR_FILE).is_file()]
    error = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in errors)
    state = FINISHED if len(splits) == total else FAILED if errors else UNFINISHED
    return Run(record, label, state, f"{len(splits)} of {total} splits", splits, error)


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


def command_text(argv: Sequence[str]) -> str:
    """A command line of one of the project's tools as it is typed."""
    return shlex.join(["python", *argv])
