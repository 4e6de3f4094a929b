"""AP tables from the results of experiments: a general one, and the LoCo paper's Tables 2 and 3.

Methods are rows; of every data set there is a box (AP^bb) and a mask (AP^mk) column, both COCO's AP, and where the data set
has an evaluation of its own, that one's AP. A cell is the mean ± standard deviation over the splits and, in brackets, the
difference to the mean of the baseline of the same encoder and epochs. A run with fewer splits than requested says so in its
cells, e.g. ``(3/5 splits)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loco_det.ap_rows import BASELINE, RowKey, RunGrid, Score, run_grid
from loco_det.comparability import grid_warnings
from loco_det.evaluation.results import OFFICIAL, RESULTS_FILE, TASKS, ResultsError, RunResults
from loco_det.published import MAX_VARIANCE, SPLITS, PublishedTable, contradictions, published_table
from loco_det.table_layouts import ENCODER_TITLES, METHOD_TITLES, APTable, general_table, paper_layout
from pretrain.tables import (
    LATEX,
    MARKDOWN,
    Heading,
    Notation,
    Report,
    csv_table,
    json_table,
    latex_table,
    markdown_table,
)

__all__ = ["BASELINE", "FORMATS", "Report", "ap_report", "ap_table_rows", "find_results"]

DATASET_TITLES = {"coco": "COCO", "cityscapes": "Cityscapes", "coco10k": "COCO-10K", "coco1k": "COCO-1K"}
TASK_TITLES = {"bbox": "AP^bb", "segm": "AP^mk", OFFICIAL: "AP (cityscapesscripts)"}
LATEX_TASK_TITLES = {"bbox": "AP$^{bb}$", "segm": "AP$^{mk}$", OFFICIAL: "AP (cityscapesscripts)"}


def ap_report(
    directories: Iterable[str | os.PathLike[str]],
    baseline: str = BASELINE,
    fmt: str = "markdown",
    table: int | None = None,
    paper: bool = False,
) -> Report:
    """An AP table of all results in some folders.

    Args:
        directories: work directories, or parents of them: see :func:`find_results`.
        baseline: method that the differences are taken to.
        fmt: a key of :data:`FORMATS`: markdown, latex, csv or json.
        table: 2 or 3 for the layout of that table of the paper; None for every run by its own name.
        paper: whether to show the published numbers beside ours; the notes then tell what to know of them.

    Raises:
        ResultsError: results are missing, unreadable, or given twice.
        ValueError: the format or table is unknown, or the paper's numbers are asked for without a table.
    """
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}")
    if paper and table is None:
        raise ValueError("the paper's numbers have the paper's layouts: --paper needs --table 2 or --table 3")
    published = None if table is None else published_table(table)
    grid = run_grid((RunResults.read(path) for path in find_results(directories)), baseline)
    if published is None:
        filled, notes = general_table(grid), []
    else:
        filled, notes = paper_layout(grid, published, paper)
    if filled.published is not None:
        notes = [*notes, *_published_notes(filled, filled.published)]
    return Report(FORMATS[fmt](filled), grid_warnings(filled.grid), notes)


def find_results(directories: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The ``results.json`` of each folder: its own, or else all below it.

    Returns:
        Paths in the order of the folders, those of one folder sorted, each file once.

    Raises:
        ResultsError: a folder does not exist or holds no results.
    """
    found: dict[Path, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise ResultsError(f"{directory} is not a folder; give the work directory of a run")
        own = directory / RESULTS_FILE
        paths = [own] if own.exists() else sorted(directory.rglob(RESULTS_FILE))
        if not paths:
            raise ResultsError(f"{own} does not exist, nor any {RESULTS_FILE} below; run tools/train_det.py first")
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def ap_table_rows(runs: Iterable[RunResults], baseline: str = BASELINE) -> dict[str, list[dict[str, Any]]]:
    """The numbers of the general table; also its JSON format.

    Args:
        runs: results, at most one of each method, encoder, pretraining epochs and data set, in any order.
        baseline: method that the differences are taken to.

    Returns:
        ``{"rows": [...]}`` with the rows of :func:`table_rows`.

    Raises:
        ResultsError: two runs are of the same cell; names both folders.
    """
    return {"rows": table_rows(general_table(run_grid(runs, baseline)))}


def table_rows(table: APTable) -> list[dict[str, Any]]:
    """The numbers of a table; also its JSON format.

    Returns:
        A dict for each row and data set, in the table's order: ``method``, ``encoder``, ``pretraining_epochs``, ``dataset``,
        then ``<task>_mean``, ``_std``, ``_delta`` and ``_splits`` of the tasks bbox, segm and official, and
        ``requested_splits``; and where the published numbers are shown, ``bbox_paper``, ``bbox_paper_delta``,
        ``segm_paper`` and ``segm_paper_delta``. AP in points. ``<task>_splits`` is how many splits the task's mean is over,
        and 0 of 0 are requested where there is no run. None stands for what does not exist: a mean without splits, the
        deviation of a single split, a difference without baseline and that of the baseline to itself.
    """
    return [_numbers(table, row, dataset) for row in table.rows for dataset in table.columns
            if table.every_cell or (row, dataset) in table.grid.runs]


def _numbers(table: APTable, row: RowKey, dataset: str) -> dict[str, Any]:
    entry: dict[str, Any] = dict(method=row.method, encoder=row.encoder, pretraining_epochs=row.epochs, dataset=dataset)
    scores = {task: table.grid.score(row, dataset, task) or Score(None, None, None, (), 0) for task in TASK_TITLES}
    for task, score in scores.items():
        entry |= {f"{task}_mean": score.mean, f"{task}_std": score.std, f"{task}_delta": score.delta,
                  f"{task}_splits": len(score.splits)}
    entry["requested_splits"] = scores["bbox"].requested
    if table.published is not None:
        for task in TASKS:
            entry[f"{task}_paper"] = table.published.value(row, dataset, task)
            entry[f"{task}_paper_delta"] = table.published.delta(row, dataset, task, table.grid.baseline)
    return entry


def _published_notes(table: APTable, published: PublishedTable) -> Iterator[str]:
    """What to know of the published numbers that stand beside ours."""
    for wrong in contradictions(published):
        name = " ".join([METHOD_TITLES[wrong.row.method], ENCODER_TITLES[wrong.row.encoder], f"{wrong.row.epochs} epochs"])
        yield (f"the paper prints ({wrong.printed:+.1f}) beside the {DATASET_TITLES[wrong.dataset]} "
               f"{TASK_TITLES[wrong.task]} of {name}, but its values give {wrong.computed:+.1f}, which is shown")
    for dataset in published.datasets:
        if OFFICIAL in table.columns[dataset]:
            yield (f"the paper does not tell whether its masks on {DATASET_TITLES[dataset]} are evaluated as COCO's or by "
                   "cityscapesscripts; its boxes can only be as COCO's")
    if published.number == 3:
        yield from _split_notes(table.grid, published)
        ours = "; ".join(filter(None, (_deviations(table.grid, dataset) for dataset in table.columns)))
        yield (f"the paper tells no deviations, only that over its {SPLITS} splits \"the variance is very small "
               f"(< {MAX_VARIANCE})\"; our standard deviations: {ours or 'none yet, they take two splits of a run'}")


def _split_notes(grid: RunGrid, published: PublishedTable) -> Iterator[str]:
    """Which runs beside the published numbers are complete without being over as many splits."""
    others = [f"{grid.name(row)} on {DATASET_TITLES[dataset]} ({run.requested_splits})"
              for (row, dataset), run in grid.runs.items()
              if dataset in published.datasets and sorted(run.requested_splits) != list(range(SPLITS))]
    if others:
        yield f"the paper averages over {SPLITS} splits; not the splits 0 to {SPLITS - 1} are those of {', '.join(others)}"


def _deviations(grid: RunGrid, dataset: str) -> str:
    """The range of the standard deviations on a data set, e.g. ``COCO-10K AP^bb 0.05 to 0.18, AP^mk 0.10``."""
    parts = []
    for task in TASKS:
        scores = [grid.score(row, dataset, task) for row in grid.rows]
        values = sorted(score.std for score in scores if score is not None and score.std is not None)
        if values:
            ends = dict.fromkeys((f"{values[0]:.2f}", f"{values[-1]:.2f}"))
            parts.append(f"{TASK_TITLES[task]} {' to '.join(ends)}")
    return f"{DATASET_TITLES.get(dataset, dataset)} {', '.join(parts)}" if parts else ""


def _cell(score: Score | None, notation: Notation) -> str:
    """One table cell, e.g. ``22.6 ± 0.2 (-3.0)``; an en dash where there is no value."""
    if score is None:
        return notation.missing
    text = notation.score(score.mean, score.std, score.delta)
    return text if score.complete else f"{text} ({len(score.splits)}/{score.requested} splits)"


def _lines(table: APTable, notation: Notation) -> Iterator[list[str] | Heading]:
    """The cells of every row, ours and the paper's side by side, and the headings over rows."""
    for section in table.sections:
        if section.heading is not None:
            yield Heading(notation.escaped(section.heading))
        for row in section.rows:
            labels = [notation.missing if label is None else notation.escaped(label) for label in table.labels[row]]
            yield [*labels, *_cells(table, row, notation)]


def _cells(table: APTable, row: RowKey, notation: Notation) -> Iterator[str]:
    for dataset, tasks in table.columns.items():
        for task in tasks:
            yield _cell(table.grid.score(row, dataset, task), notation)
            if _has_published(table, dataset, task):
                delta = table.published.delta(row, dataset, task, table.grid.baseline)
                yield notation.score(table.published.value(row, dataset, task), delta=delta)


def _has_published(table: APTable, dataset: str, task: str) -> bool:
    return table.published is not None and dataset in table.published.datasets and task in TASKS


def _headers(table: APTable, dataset: str, titles: Mapping[str, str]) -> list[str]:
    """Titles of a data set's columns."""
    return [title for task in table.columns[dataset] for title in
            ([titles[task], f"{titles[task]}, paper"] if _has_published(table, dataset, task) else [titles[task]])]


def _dataset_title(dataset: str, notation: Notation) -> str:
    return notation.escaped(DATASET_TITLES.get(dataset, dataset))


def _markdown(table: APTable) -> str:
    header = [f"{_dataset_title(dataset, MARKDOWN)} {title}" for dataset in table.columns
              for title in _headers(table, dataset, TASK_TITLES)]
    return markdown_table([*table.label_titles, *header], list(_lines(table, MARKDOWN)))


def _latex(table: APTable) -> str:
    headers = {dataset: _headers(table, dataset, LATEX_TASK_TITLES) for dataset in table.columns}
    groups = [(_dataset_title(dataset, LATEX), len(titles)) for dataset, titles in headers.items()]
    header = [*table.label_titles, *(title for titles in headers.values() for title in titles)]
    return latex_table(header, list(_lines(table, LATEX)), groups, labels=len(table.label_titles))


def _csv(table: APTable) -> str:
    rows = table_rows(table)
    return csv_table(list(rows[0]), rows)


def _json(table: APTable) -> str:
    return json_table(table_rows(table))


FORMATS: Mapping[str, Callable[[APTable], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
