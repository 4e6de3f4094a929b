"""What a report is made of, found below some folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loco_det.ap_rows import averaged_splits, row_key, spelled_epochs
from loco_det.evaluation.results import RESULTS_FILE, ResultsError, RunResults
from loco_det.html_report.blocks import shown_path
from loco_det.html_report.records import Record, find_records
from loco_det.html_report.runs import Run, find_runs


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Attributes:
        directories: as they were given.
        runs: every work directory.
        results: every readable result of detection, in the order of tables.
        problems: a line for each that is not readable.
        readouts: every readable readout.
        analyses: every readable analysis.
        damaged: a line for each readout or analysis that is not readable.
    """

    directories: Sequence[Path]
    runs: Sequence[Run]
    results: Sequence[RunResults]
    problems: Sequence[str]
    readouts: Sequence[Record]
    analyses: Sequence[Record]
    damaged: Sequence[str]

    @property
    def records(self) -> list[Record]:
        """Readouts, then analyses."""
        return [*self.readouts, *self.analyses]

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
    records, damaged = find_records(directories)
    if not (runs or results or problems or records or damaged):
        raise ValueError(f"nothing to report below {', '.join(map(str, directories))}, neither run.json nor results; pass "
                         "work directories of tools/pretrain.py or tools/train_det.py, or folders above them")
    readouts, analyses = ([record for record in records if record.is_analysis == wanted] for wanted in (False, True))
    return Material(directories, runs, sorted(results, key=lambda run: row_key(run).order), problems, readouts, analyses,
                    damaged)


def one_of_each(results: Iterable[RunResults]) -> tuple[list[RunResults], list[str]]:
    """One result for every cell of a table, and a line about each other one.

    Of several that would be in one cell, that of the most splits is taken, of equally many the first.
    """
    cells: dict[tuple, list[RunResults]] = {}
    for run in results:
        cells.setdefault((row_key(run), run.dataset), []).append(run)
    chosen, lines = [], []
    for runs in cells.values():
        best = max(runs, key=lambda run: len(averaged_splits(run, "bbox")))
        chosen.append(best)
        lines += [f"{shown_path(run.source.parent)} is left out of tables and bars: it is of the same method, encoder, "
                  f"epochs and data ({run.method}, {run.encoder}, {spelled_epochs(row_key(run).epochs)}, {run.dataset}) as "
                  f"{shown_path(best.source.parent)}; make reports of their own to see the AP of both"
                  for run in runs if run is not best]
    return chosen, lines


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
            except Exception as error:  # whatever a damaged file may lead to
                problems.append(f"{file} cannot be used ({type(error).__name__}: {error})")
    return list(results.values()), problems
