"""Bars of average precision per method and data set, with what every split scored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from loco_det.ap_rows import RowKey, RunGrid, run_grid
from loco_det.evaluation.results import OFFICIAL, TASKS, RunResults
from loco_det.report import DATASET_TITLES, TASK_TITLES, find_results
from pretrain.figures.labels import CHARACTER, legend_height, outside_legend
from pretrain.figures.style import COLUMN_WIDTH, TEXT_WIDTH, Drawing, figure_style, method_color, new_figure, shades
from pretrain.methods import named_method

PANEL_TITLES = {"bbox": "AP$^{bb}$", "segm": "AP$^{mk}$", OFFICIAL: TASK_TITLES[OFFICIAL]}
GROUP_WIDTH = 0.84  # of the bars of one data set, whose neighbours are 1 apart
DOT_SPREAD = 0.5  # of a bar's width, over which its splits lie
HEADROOM = 1.18  # for two lines over the highest bar
NUMBER_SIZE = 6.5  # points
UNFINISHED = "////"


def draw_ap(paths: Iterable[str | os.PathLike[str]]) -> Drawing:
    """COCO's AP of boxes and of masks, a panel each (and one of a data set's own AP): mean, deviation, and every split.

    Args:
        paths: run directories of ``tools/train_det.py``, or folders above them.

    Raises:
        ResultsError: results are missing, unreadable, or given twice.
    """
    grid = run_grid(RunResults.read(path) for path in find_results(paths))
    with figure_style():
        figure = _draw(grid)
    panels = ", ".join(dict.fromkeys(TASK_TITLES[task] for task in _tasks(grid)))
    return Drawing(
        figure,
        f"{panels} in points by pretraining of the backbone and data set: mean over the splits, error bars of one sample "
        "standard deviation, and a dot per split; runs with unfinished splits are hatched.",
        {"rows": [_numbers(grid, row, dataset) for row, dataset in grid.runs]},
    )


def _numbers(grid: RunGrid, row: RowKey, dataset: str) -> dict[str, Any]:
    run = grid.runs[row, dataset]
    entry: dict[str, Any] = dict(method=row.method, encoder=row.encoder, pretraining_epochs=row.epochs, dataset=dataset,
                                 splits=sorted(run.splits), requested_splits=len(run.requested_splits))
    for task in grid.tasks(dataset):
        mean, std = run.mean_std(task)
        entry[task] = dict(mean=mean, std=std, values=[value for _, value in _values(run, task)])
    return entry


def _values(run: RunResults, task: str) -> list[tuple[int, float]]:
    """Numbers of the splits that have a value, ascending, and the values."""
    pairs = zip(run.splits, run.precisions(task), strict=True)
    return sorted((split, value) for split, value in pairs if value is not None)


def _tasks(grid: RunGrid) -> list[str]:
    return list(dict.fromkeys(task for dataset in grid.datasets for task in grid.tasks(dataset)))


def _draw(grid: RunGrid) -> Figure:
    tasks, bars = _tasks(grid), len(grid.rows) * len(grid.datasets)
    width = TEXT_WIDTH if bars > 4 or len(tasks) > len(TASKS) else COLUMN_WIDTH
    colors, labels = _colors(grid.rows), [_label(grid, row) for row in grid.rows]
    handles = [Patch(facecolor=colors[row]) for row in grid.rows]
    if not all(run.complete for run in grid.runs.values()):
        handles.append(Patch(facecolor="white", edgecolor="black", hatch=UNFINISHED))
        labels.append("unfinished")
    figure, axes = new_figure(len(tasks), width=width, height=2.1 + legend_height(labels, width), sharey=True)
    panel = (width - 0.6) / len(tasks)  # inches
    highest = [_draw_panel(axis, grid, task, colors, panel) for axis, task in zip(axes, tasks, strict=True)]
    axes[0].set_ylim(0, max(highest) * HEADROOM or 1)
    axes[0].set_ylabel("AP (points)")
    outside_legend(figure, handles, labels, "lower center")
    return figure


def _draw_panel(axis: Axes, grid: RunGrid, task: str, colors: dict[RowKey, Any], inches: float) -> float:
    """Draws the bars of a task in a panel ``inches`` wide, and returns how high they reach."""
    datasets = [dataset for dataset in grid.datasets if task in grid.tasks(dataset)]
    width = GROUP_WIDTH / len(grid.rows)
    limits = (-0.55, len(datasets) - 0.45)
    bar_inches = width * inches / (limits[1] - limits[0])
    highest = 0.0
    for place, row in enumerate(grid.rows):
        for group, dataset in enumerate(datasets):
            if (row, dataset) in grid.runs:
                x = group + (place + 0.5) * width - GROUP_WIDTH / 2
                highest = max(highest, _draw_bar(axis, x, width, grid.runs[row, dataset], task, colors[row], bar_inches))
    axis.set_title(PANEL_TITLES[task], parse_math=True)
    axis.set_xlim(limits)
    axis.set_xticks(range(len(datasets)), [DATASET_TITLES.get(dataset, dataset) for dataset in datasets])
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    return highest


def _draw_bar(axis: Axes, x: float, width: float, run: RunResults, task: str, color: Any, inches: float) -> float:
    """Draws one bar around ``x``, so many ``inches`` wide, and returns how high it reaches with all that belongs to it."""
    values = _values(run, task)
    if not values:
        _annotate(axis, x, 0, _finished(run), inches)
        return 0.0
    mean, std = run.mean_std(task)
    axis.bar(x, mean, width * 0.92, color=color, edgecolor="black", hatch=None if run.complete else UNFINISHED)
    if std is not None:
        axis.errorbar(x, mean, std, color="black", linewidth=0.8, capsize=2, capthick=0.8)
    middle = (len(run.requested_splits) - 1) / 2
    step = DOT_SPREAD * width / max(1, len(run.requested_splits) - 1)
    places = [run.requested_splits.index(split) - middle for split, _ in values]
    axis.scatter([x + place * step for place in places], [value for _, value in values], s=7, facecolor="white",
                 edgecolor="black", linewidths=0.5, zorder=3)
    top = max(*(value for _, value in values), mean + (std or 0))
    _annotate(axis, x, top, f"{mean:.1f}" if run.complete else f"{mean:.1f}\n{_finished(run)}", inches)
    return top


def _finished(run: RunResults) -> str:
    return f"({len(run.splits)}/{len(run.requested_splits)})"


def _annotate(axis: Axes, x: float, y: float, text: str, inches: float) -> None:
    """Writes above a bar, unless the text is wider than it is."""
    if max(map(len, text.split("\n"))) * CHARACTER * NUMBER_SIZE > inches:
        return
    axis.annotate(text, (x, y), xytext=(0, 2.5), textcoords="offset points", ha="center", va="bottom", fontsize=NUMBER_SIZE)


def _colors(rows: Iterable[RowKey]) -> dict[RowKey, Any]:
    """The methods' colours; rows that would have the same one have shades of it."""
    by_color: dict[str, list[RowKey]] = {}
    for row in rows:
        by_color.setdefault(method_color(named_method(row.method)), []).append(row)
    return {row: shade for color, alike in by_color.items()
            for row, shade in zip(alike, shades(color, len(alike)), strict=True)}


def _label(grid: RunGrid, row: RowKey) -> str:
    """The method as figures call it, and what tells the row from others."""
    return named_method(row.method).label + grid.name(row).removeprefix(row.method)
