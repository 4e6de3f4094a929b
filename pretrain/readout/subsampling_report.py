"""Readout accuracies in the form of the second paper's tables and figures (Fournier et al., 2023), its numbers beside ours.

Rows are the number K of decoupled blocks, with and without subsampling. A cell is the mean ± standard deviation over
pretrainings that differ in their seeds alone and, in brackets, the difference to SimCLR's mean at the same K. Results on
other data, of another readout, or of pretrainings of other settings have columns of their own; several thresholds have rows
of their own. Encoders from before the end of their schedule are told but never averaged.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

from pretrain.readout.averages import STAGES, averaging_warnings
from pretrain.readout.columns import Column
from pretrain.readout.runs import DATA_SETS, find_runs
from pretrain.readout.sheets import FORMATS, Sheet, check_choice
from pretrain.readout.subsampling_grid import Grid, departures, fill_grid, is_recorded, shown_titles
from pretrain.readout.subsampling_layouts import figure_3, figure_4, table_1, table_2
from pretrain.readout.subsampling_published import CIFAR10
from pretrain.readout.subsampling_sources import PaperResults, our_sources, paper_sources
from pretrain.tables import Report

TABLES = {1: table_1, 2: table_2}
FIGURES = {3: figure_3, 4: figure_4}
TABLE_2_DATA = ("fashion_mnist", DATA_SETS["fashion_mnist"])  # all other data sets stand in table 1


def subsampling_report(
    paths: Iterable[str | os.PathLike[str]],
    table: int | None = None,
    figure: int | None = None,
    paper: bool = False,
    fmt: str = "markdown",
    stages: str = "last",
) -> Report:
    """The paper's tables, or a figure's values, with the accuracies of all readout results in some folders.

    Args:
        paths: readout results, or folders above them: see :func:`~pretrain.readout.runs.find_runs`.
        table: 1 or 2; None for those that there are results for.
        figure: 3 or 4 for that figure's values instead of a table.
        paper: whether to show the published numbers, too.
        fmt: a key of :data:`~pretrain.readout.sheets.FORMATS`: markdown, latex, csv or json.
        stages: a key of :data:`~pretrain.readout.averages.STAGES`.

    Returns:
        The tables; warnings tell every result that is in none of them, and why, and what to know of the averages.

    Raises:
        ValueError: an option is unknown, results are missing or damaged, one is given twice, or none belongs here.
    """
    _check_options(table, figure, fmt, stages)
    runs, passed_over = find_runs(paths)
    grid = fill_grid(runs)
    make = partial(_tables, table=table) if figure is None else partial(_figure, figure=figure)
    sheets, shown = make(grid, paper=paper, every_stage=stages == "all")
    kept = grid.only(shown)
    left_out = [*grid.left_out, *_elsewhere(grid, shown), *(_not_on_both(grid) if figure == 3 else ())]
    notes = _departures(kept)
    if figure is not None and paper:
        notes.append(f"the paper draws Figure {figure} without numbers: shown is what its Table 1 prints of CIFAR-10")
    warnings = [*passed_over, *left_out, *averaging_warnings(kept.runs), *_without_baseline(kept)]
    return Report(FORMATS[fmt](sheets), warnings, notes)


def _figure(grid: Grid, figure: int, paper: bool, every_stage: bool) -> tuple[list[Sheet], list[Column]]:
    """A figure's values, and the columns of the grid that they are of."""
    sources = [*our_sources(grid, every_stage), *([PaperResults(CIFAR10)] if paper else ())]
    return [FIGURES[figure](sources)], grid.columns


def _tables(grid: Grid, table: int | None, paper: bool, every_stage: bool) -> tuple[list[Sheet], list[Column]]:
    """The table that is asked for, or those that there are results for, and the columns of the grid that are in them."""
    columns = {number: _columns_of(grid, number) for number in TABLES}
    numbers = [table] if table else [number for number in TABLES if columns[number]]
    if not any(columns[number] or paper for number in numbers):
        there = ", ".join(sorted({column.data_set for column in grid.columns}))
        raise ValueError(f"there are no results for Table {table}; those given are on {there}: try --table {3 - table}")
    sheets = [TABLES[number]([*our_sources(grid.only(columns[number]), every_stage),
                              *(paper_sources(number) if paper else ())]) for number in numbers]
    return sheets, [column for number in numbers for column in columns[number]]


def _check_options(table: int | None, figure: int | None, fmt: str, stages: str) -> None:
    if table is not None and figure is not None:
        raise ValueError(f"--table {table} and --figure {figure} exclude each other; leave one out")
    check_choice("table", table, (None, *TABLES))
    check_choice("figure", figure, (None, *FIGURES))
    check_choice("format", fmt, FORMATS)
    check_choice("stage", stages, STAGES)


def _columns_of(grid: Grid, table: int) -> list[Column]:
    """Fashion-MNIST, also as a folder of that name, stands in table 2, everything else in table 1."""
    return [column for column in grid.columns if column.data_set.startswith(TABLE_2_DATA) == (table == 2)]


def _elsewhere(grid: Grid, shown: Sequence[Column]) -> list[str]:
    counts = Counter({place.column.data_set: 0 for place in grid.runs})
    for place, runs in grid.runs.items():
        counts[place.column.data_set] += len(runs) if place.column not in shown else 0
    return [f"not in this table: {number} result{'s' if number > 1 else ''} on {data_set}"
            for data_set, number in counts.items() if number]


def _not_on_both(grid: Grid) -> list[str]:
    """Figure 3 is about one way of subsampling."""
    number = sum(len(runs) for place, runs in grid.runs.items() if place.subsampling and place.subsampling.on != "both")
    return [f"not in Figure 3: {number} result{'s' if number > 1 else ''} with positives or negatives alone subsampled "
            "(--figure 4)"] if number else []


def _without_baseline(grid: Grid) -> list[str]:
    titles, lacking = shown_titles(grid.columns), defaultdict(set)
    for place, runs in grid.runs.items():
        if place.subsampling and any(run.complete for run in runs) and place._replace(subsampling=None) not in grid.runs:
            lacking[place.column].add(place.cutting)
    return [f"no run of SimCLR with K = {'; '.join(map(str, sorted(lacking[column])))} in the column {titles[column]}: no "
            "differences there" for column in grid.columns if column in lacking]


def _departures(grid: Grid) -> list[str]:
    titles = shown_titles(grid.columns)
    return [f"{titles[column]}: {', '.join(lines)}" for column in grid.columns
            if is_recorded(column) and (lines := departures(column))]
