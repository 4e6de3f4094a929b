"""Bars of average precision by method and data set, with what every split scored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from mmengine.logging import print_log

from pretrain.figures.style import (
    CHARACTER,
    COLUMN_WIDTH,
    SMALL_SIZE,
    TEXT_WIDTH,
    Drawing,
    figure_style,
    legend_height,
    method_color,
    new_figure,
    outside_legend,
    shades,
    wrapped,
)
from pretrain.results.files import RecordError
from pretrain.results.method import shown_method
from pretrain.results.store import DETECTION, read_rows
from pretrain.results.table import METRIC_TITLES, Cell, Group, Results

GROUP_WIDTH = 0.84  # of the bars of one data set, whose neighbours are 1 apart
DOT_SPREAD = 0.5  # of a bar's width, over which its splits lie
NUMBER_SIZE = 6.5  # points
UNFINISHED = "////"


def draw_ap(paths: Iterable[str | os.PathLike[str]]) -> Drawing:
    """AP in a panel for each kind of it, such as of boxes and of masks: mean, deviation, and every split.

    Args:
        paths: run directories of ``tools/train_det.py``, or folders above them.

    Raises:
        RecordError: there are no results of detection, or a file that is given cannot be used.
    """
    paths = list(paths)
    frame, records, warnings = read_rows(paths)
    for warning in warnings:
        print_log(warning, logger="current")
    frame = frame[(frame["protocol"] == DETECTION) & frame["metric"].str.endswith("_AP")]
    if frame.empty:
        raise RecordError(f"no results of detection below {', '.join(map(str, paths))}; run tools/train_det.py first")
    results = Results(frame, records, frame["metric"].unique())
    metrics = list(dict.fromkeys(column.metric for column in results.columns))
    datasets = list(dict.fromkeys(replace(column, metric="") for column in results.columns))
    width = TEXT_WIDTH if len(results.groups) * len(datasets) > 4 or len(metrics) > 2 else COLUMN_WIDTH
    colors = _colors(results)
    labels, handles = [results.name(group) for group in results.groups], [Patch(facecolor=colors[g]) for g in results.groups]
    if any(cell.n < cell.of for cell in results.cells.values()):
        handles.append(Patch(facecolor="white", edgecolor="black", hatch=UNFINISHED))
        labels.append("unfinished")
    with figure_style():
        figure, axes = new_figure(len(metrics), width=width, height=2.1 + legend_height(labels, width), sharey=True)
        inches = (width - 0.6) / len(metrics)
        tops = []
        for ax, metric in zip(axes, metrics, strict=True):
            cells = {column.title: {group: cell for group in results.groups
                                    if (cell := results.cell(group, replace(column, metric=metric)))} for column in datasets}
            tops.append(_draw_panel(ax, {title: found for title, found in cells.items() if found}, colors, inches))
            base, power, exponent = METRIC_TITLES.get(metric, metric).partition("^")
            ax.set_title(f"{base}$^{{{exponent}}}$" if power else base, parse_math=bool(power))
        axes[0].set_ylim(0, 1.18 * max(tops) or 1)  # with room for two lines over the highest bar
        axes[0].set_ylabel("AP (points)")
        outside_legend(figure, handles, labels, "lower center")
    titles = ", ".join(METRIC_TITLES.get(metric, metric) for metric in metrics)
    return Drawing(figure, f"{titles} in points by pretraining of the backbone and data set: mean over the splits, error "
                   "bars of one sample standard deviation, and a dot per split; runs with unfinished splits are hatched.")


def _draw_panel(
    ax: Axes, cells: Mapping[str, Mapping[Group, Cell]], colors: Mapping[Group, Any], inches: float
) -> float:
    """Draws the bars of a metric by data set in a panel ``inches`` wide, and returns how high they reach."""
    width, unit = GROUP_WIDTH / len(colors), inches / (len(cells) + 0.1)
    highest = 0.0
    for position, found in enumerate(cells.values()):
        for index, (group, color) in enumerate(colors.items()):
            if group in found:
                x = position + (index + 0.5) * width - GROUP_WIDTH / 2
                highest = max(highest, _draw_bar(ax, x, width, found[group], color, width * unit))
    ax.set_xlim(-0.55, len(cells) - 0.45)
    ax.set_xticks(range(len(cells)), [wrapped(title, unit, SMALL_SIZE) for title in cells])
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False, axis="x")
    return highest


def _colors(results: Results) -> dict[Group, Any]:
    """The methods' colours in the order of rows; groups that would have the same one have shades of it."""
    base = [method_color(shown_method(results.methods[key])) for key, _ in results.groups]
    return {group: shades(color, base.count(color))[base[:place].count(color)]
            for place, (group, color) in enumerate(zip(results.groups, base, strict=True))}


def _draw_bar(ax: Axes, x: float, width: float, cell: Cell, color: Any, inches: float) -> float:
    """Draws one bar around ``x``, so many ``inches`` wide, and returns how high it reaches with all that belongs to it."""
    finished = f"({cell.n}/{cell.of})" if cell.n < cell.of else ""
    top, lines = 0.0, [finished]
    if cell.mean is not None:
        ax.bar(x, cell.mean, width * 0.92, color=color, edgecolor="black", hatch=UNFINISHED if finished else None)
        if cell.std is not None:
            ax.errorbar(x, cell.mean, cell.std, color="black", linewidth=0.8, capsize=2, capthick=0.8)
        step = DOT_SPREAD * width / max(1, cell.of - 1)
        dots = [(x + (index - (cell.of - 1) / 2) * step, value) for index, value in enumerate(cell.values)
                if value is not None]
        ax.scatter(*zip(*dots, strict=True), s=7, facecolor="white", edgecolor="black", linewidths=0.5, zorder=3)
        top = max(*(value for _, value in dots), cell.mean + (cell.std or 0))
        lines = list(filter(None, [f"{cell.mean:.1f}", finished]))
    if max(map(len, lines)) * CHARACTER * NUMBER_SIZE <= inches:  # a number wider than its bar would meet the next one
        ax.annotate("\n".join(lines), (x, top), xytext=(0, 2.5), textcoords="offset points", ha="center", va="bottom",
                    fontsize=NUMBER_SIZE)
    return top
