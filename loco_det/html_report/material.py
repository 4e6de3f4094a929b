"""What a report is made of, found below some folders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_det.evaluation.results import RESULTS_FILE, ResultsError, RunResults
from loco_det.html_report.runs import Run, find_runs
from pretrain.readout.runs import KINDS, READOUT_SUFFIX

Record = tuple[Path, dict[str, Any]]


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        directories: as they were given.
        runs: every work directory.
        results: every readable result of detection.
        problems: a line for each that is not readable.
        readouts: every readout, file and content.
        analyses: every analysis likewise.
    """

    directories: Sequence[Path]
    runs: Sequence[Run]
    results: Sequence[RunResults]
    problems: Sequence[str]
    readouts: Sequence[Record]
    analyses: Sequence[Record]

    def of_kind(self, kind: str) -> list[Run]:
        """The runs of a kind."""
        return [run for run in self.runs if run.kind == kind]


def gather(directories: Iterable[str | Path]) -> Material:
    """Looks at everything below some folders.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing that a report could tell of.
    """
    directories = [Path(directory) for directory in directories]
    runs = find_runs(directories)
    results, problems = _readable_results(directories)
    records = _records(directories)
    if not (runs or results or problems or records):
        raise ValueError(f"nothing to report below {', '.join(map(str, directories))}, neither run.json nor results; pass "
                         "work directories of tools/pretrain.py or tools/train_det.py, or folders above them")
    analyses = [record for record in records if record[1]["kind"].startswith("analysis_")]
    readouts = [record for record in records if record not in analyses]
    return Material(directories, runs, results, problems, readouts, analyses)


def _records(directories: Iterable[Path]) -> list[Record]:
    """Readouts and analyses below some folders; what is no such file is passed over."""
    found: dict[Path, Record] = {}
    for directory in directories:
        for file in sorted(directory.rglob("*.json")):
            if file.parent.suffix != READOUT_SUFFIX or file.resolve() in found:
                continue
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                if record["kind"] in KINDS or record["kind"].startswith("analysis_"):
                    found[file.resolve()] = (file, record)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # told by the tables that it would be in
    return list(found.values())


def _readable_results(directories: Iterable[Path]) -> tuple[list[RunResults], list[str]]:
    """The detection results below some folders that can be read, and a line about each that cannot."""
    results: dict[Path, RunResults] = {}
    problems = []
    for directory in directories:
        for file in sorted(directory.rglob(RESULTS_FILE)):
            try:
                results.setdefault(file.resolve(), RunResults.read(file))
            except ResultsError as error:
                problems.append(str(error))
    return list(results.values()), problems
