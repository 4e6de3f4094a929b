"""AP tables in the form of the LoCo paper's Tables 2 and 3, from the results of experiments.

Methods are rows; of every data set there is a box (AP^bb) and a mask (AP^mk) column with mean ±
standard deviation over the splits and, in brackets, the difference to the baseline's mean. A run
with fewer splits than requested says so in its cells, e.g. ``(3/5 splits)``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loco_det.evaluation.results import RESULTS_FILE, ResultsError, RunResults
from pretrain.tables import (
    LATEX,
    MARKDOWN,
    Notation,
    Report,
    csv_table,
    json_table,
    latex_table,
    markdown_table,
)

__all__ = ["FORMATS", "Report", "ap_report", "ap_table_rows", "find_results", "table_warnings"]

BASELINE = "simclr"
METHOD_ORDER = ("random", "supervised", "simclr", "gim", "loco")
DATASET_ORDER = ("coco", "cityscapes", "coco10k", "coco1k")
DATASET_TITLES = {
    "coco": "COCO",
    "cityscapes": "Cityscapes",
    "coco10k": "COCO-10K",
    "coco1k": "COCO-1K",
}
TASK_TITLES = {"bbox": "bb", "segm": "mk"}
CSV_COLUMNS = (
    "method",
    "dataset",
    "bbox_mean",
    "bbox_std",
    "bbox_delta",
    "segm_mean",
    "segm_std",
    "segm_delta",
    "splits",
    "requested_splits",
)

Row = dict[str, Any]


def ap_report(
    directories: Iterable[str | os.PathLike[str]], baseline: str = BASELINE, fmt: str = "markdown"
) -> Report:
    """The AP table of all results in some folders.

    Args:
        directories: Work directories, or parents of them: see :func:`find_results`.
        baseline: Method that the differences are taken to.
        fmt: A key of :data:`FORMATS`: markdown, latex, csv or json.

    Raises:
        ResultsError: If results are missing, unreadable, or given twice.
        ValueError: If the format is unknown.
    """
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}")
    runs = [RunResults.read(path) for path in find_results(directories)]
    table = ap_table_rows(runs, baseline)
    return Report(FORMATS[fmt](table["rows"]), table_warnings(runs, baseline))


def find_results(directories: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The ``results.json`` of each folder: its own, or else all below it.

    Returns:
        Paths in the order of the folders, those of one folder sorted, each file once.

    Raises:
        ResultsError: If a folder does not exist or holds no results.
    """
    found: dict[Path, Path] = {}
    for directory in map(Path, directories):
        if not directory.is_dir():
            raise ResultsError(f"{directory} is not a folder; give the work directory of a run")
        own = directory / RESULTS_FILE
        paths = [own] if own.exists() else sorted(directory.rglob(RESULTS_FILE))
        if not paths:
            raise ResultsError(
                f"{own} does not exist, nor any {RESULTS_FILE} below; run tools/train_det.py first"
            )
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def ap_table_rows(runs: Sequence[RunResults], baseline: str = BASELINE) -> dict[str, list[Row]]:
    """The numbers of the table; also its JSON format.

    Args:
        runs: Results, at most one of each method and data set, in any order.
        baseline: Method that the differences are taken to.

    Returns:
        ``{"rows": [{"method", "dataset", "bbox_mean", "bbox_std", "bbox_delta", "segm_mean",
        "segm_std", "segm_delta", "splits", "requested_splits"}, …]}`` in the order of the table,
        row by row. AP in points. ``splits`` is how many splits the means are over. None stands for
        what does not exist: a mean without splits, the deviation of a single split, a difference
        without baseline and that of the baseline to itself.

    Raises:
        ResultsError: If two runs are of the same method and data set; names both folders.
    """
    by_key = _by_method_and_dataset(runs)
    rows = []
    for (method, dataset), run in sorted(by_key.items(), key=lambda item: _order(*item[0])):
        base = by_key.get((baseline, dataset)) if method != baseline else None
        row: Row = {"method": method, "dataset": dataset}
        for task in TASK_TITLES:
            mean, std = run.mean_std(task)
            base_mean = base.mean_std(task).mean if base else None
            delta = None if mean is None or base_mean is None else mean - base_mean
            row |= {f"{task}_mean": mean, f"{task}_std": std, f"{task}_delta": delta}
        row["splits"] = min(_number_averaged(run, task) for task in TASK_TITLES)
        row["requested_splits"] = len(run.requested_splits)
        rows.append(row)
    return {"rows": rows}


def table_warnings(runs: Sequence[RunResults], baseline: str = BASELINE) -> list[str]:
    """What makes a table less than it seems, one line for each.

    Warned of are: a data set without the baseline, incomplete runs, differences between averages
    over different splits, and splits of the same number that were trained on different images.
    """
    by_key = _by_method_and_dataset(runs)
    warnings = []
    for dataset in sorted({dataset for _, dataset in by_key}, key=_dataset_order):
        base = by_key.get((baseline, dataset))
        if base is None:
            warnings.append(f"no run of the baseline {baseline} on {dataset}: no differences there")
        for method in _methods(by_key):
            run = by_key.get((method, dataset))
            if run is None:
                continue
            name = f"{method} on {dataset}"
            if not run.complete:
                done, wanted = len(run.splits), len(run.requested_splits)
                warnings.append(f"{name} is incomplete: {done} of {wanted} splits are finished")
            if base is not None and run is not base:
                warnings += _comparison_warnings(name, run, baseline, base)
    return warnings


def _comparison_warnings(name: str, run: RunResults, baseline: str, base: RunResults) -> list[str]:
    warnings = []
    if run.splits and base.splits and set(run.splits) != set(base.splits):
        warnings.append(
            f"{name} is averaged over splits {sorted(run.splits)} but compared with "
            f"{baseline} over {sorted(base.splits)}"
        )
    differing = [
        split
        for split in sorted(set(run.splits) & set(base.splits))
        if run.splits[split].image_ids_sha256 != base.splits[split].image_ids_sha256
    ]
    if differing:
        warnings.append(f"{name} was trained on other images than {baseline} in splits {differing}")
    return warnings


def _by_method_and_dataset(runs: Iterable[RunResults]) -> dict[tuple[str, str], RunResults]:
    by_key: dict[tuple[str, str], RunResults] = {}
    for run in runs:
        other = by_key.setdefault((run.method, run.dataset), run)
        if other is not run:
            raise ResultsError(
                f"two runs of {run.method} on {run.dataset}: {_folder(other)} and {_folder(run)}; "
                "leave one out"
            )
    return by_key


def _folder(run: RunResults) -> str:
    return "(not from a file)" if run.source is None else str(run.source.parent)


def _number_averaged(run: RunResults, task: str) -> int:
    return sum(getattr(split, task)["AP"] is not None for split in run.splits.values())


def _method_order(method: str) -> tuple[int, str]:
    known = method in METHOD_ORDER
    return (METHOD_ORDER.index(method) if known else len(METHOD_ORDER), method)


def _dataset_order(dataset: str) -> tuple[int, str]:
    known = dataset in DATASET_ORDER
    return (DATASET_ORDER.index(dataset) if known else len(DATASET_ORDER), dataset)


def _order(method: str, dataset: str) -> tuple[tuple[int, str], tuple[int, str]]:
    return _method_order(method), _dataset_order(dataset)


def _methods(keys: Iterable[tuple[str, str]]) -> list[str]:
    return sorted({method for method, _ in keys}, key=_method_order)


def _grid(rows: Sequence[Row]) -> tuple[list[str], list[str], Mapping[tuple[str, str], Row]]:
    """Methods and data sets in the table's order, and the row of each pair that has one."""
    by_key = {(row["method"], row["dataset"]): row for row in rows}
    datasets = sorted({dataset for _, dataset in by_key}, key=_dataset_order)
    return _methods(by_key), datasets, by_key


def _cell(row: Row | None, task: str, notation: Notation) -> str:
    """One table cell, e.g. ``22.6 ± 0.2 (-3.0)``; an en dash where there is no value."""
    if row is None:
        return notation.missing
    text = notation.score(*(row[f"{task}_{part}"] for part in ("mean", "std", "delta")))
    if row["splits"] < row["requested_splits"]:
        text += f" ({row['splits']}/{row['requested_splits']} splits)"
    return text


def _lines(rows: Sequence[Row], notation: Notation) -> list[list[str]]:
    """The cells of every method: its name, then box and mask AP on every data set."""
    methods, datasets, by_key = _grid(rows)
    return [
        [
            notation.escaped(method),
            *(_cell(by_key.get((method, d)), task, notation) for d in datasets for task in TASK_TITLES),
        ]
        for method in methods
    ]


def _dataset_titles(rows: Sequence[Row], notation: Notation) -> list[str]:
    return [notation.escaped(DATASET_TITLES.get(dataset, dataset)) for dataset in _grid(rows)[1]]


def _markdown(rows: Sequence[Row]) -> str:
    titles = _dataset_titles(rows, MARKDOWN)
    header = [f"{title} AP^{task}" for title in titles for task in TASK_TITLES.values()]
    return markdown_table(["Method", *header], _lines(rows, MARKDOWN))


def _latex(rows: Sequence[Row]) -> str:
    titles = _dataset_titles(rows, LATEX)
    header = [f"AP$^{{{task}}}$" for _ in titles for task in TASK_TITLES.values()]
    groups = [(title, len(TASK_TITLES)) for title in titles]
    return latex_table(["Method", *header], _lines(rows, LATEX), groups)


def _csv(rows: Sequence[Row]) -> str:
    return csv_table(CSV_COLUMNS, rows)


FORMATS: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": json_table,
}
