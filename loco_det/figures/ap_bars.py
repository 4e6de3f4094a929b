"""Bars of average precision by method and data set, with what every split scored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.logging import print_log

from pretrain.encoders import encoder_label
from pretrain.figures.labels import CHARACTER, legend_height, outside_legend, wrapped
from pretrain.figures.style import COLUMN_WIDTH, TEXT_WIDTH, Drawing, figure_style, method_color, new_figure, shades
from pretrain.results.method import shown_method
from pretrain.results.store import DETECTION, RecordError, epochs_label, read_rows
from pretrain.results.table import METRIC_TITLES, Cell, Column, Group, Results

GROUP_WIDTH = 0.84  # of the bars of one data set, whose neighbours are 1 apart
DOT_SPREAD = 0.5  # of a bar's width, over which its splits lie
HEADROOM = 1.18  # for two lines over the highest bar
NUMBER_SIZE = 6.5  # points
TICK_SIZE = 7  # points, as of the style
UNFINISHED = "////"


def draw_ap(paths: Iterable[str | os.PathLike[str]]) -> Drawing:
    """AP in a panel for each kind of it, such as of boxes and of masks: mean, deviation, and every split.

    Args:
        paths: run directories of ``tools/train_det.py``, or folders above them.

    Raises:
        RecordError: there are no results of detection, or a file that is given cannot be used.
    """
    bars = _Bars(paths)
    with figure_style():
        figure = bars.draw()
    titles = ", ".join(METRIC_TITLES.get(metric, metric) for metric in bars.metrics)
    return Drawing(
        figure,
        f"{titles} in points by pretraining of the backbone and data set: mean over the splits, error bars of one sample "
        "standard deviation, and a dot per split; runs with unfinished splits are hatched.",
        {"rows": [bars.numbers(group, place) for group in bars.groups for place in bars.places if bars.has(group, place)]},
    )


class _Bars:
    """What is drawn: a panel for each metric, in it a place for each data set, and there a bar for each group."""

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        paths = list(paths)
        frame, records, warnings = read_rows(paths)
        for warning in warnings:
            print_log(warning, logger="current")
        frame = frame[(frame["protocol"] == DETECTION) & frame["metric"].str.endswith("_AP")]
        if frame.empty:
            raise RecordError(f"no results of detection below {', '.join(map(str, paths))}; run tools/train_det.py first")
        self.results = Results(frame, records, frame["metric"].unique())
        self.groups = self.results.groups
        self.metrics = list(dict.fromkeys(column.metric for column in self.results.columns))
        self.places = list(dict.fromkeys(replace(column, metric="") for column in self.results.columns))

    def cell(self, group: Group, place: Column, metric: str) -> Cell | None:
        return self.results.cell(group, replace(place, metric=metric))

    def has(self, group: Group, place: Column) -> bool:
        return any(self.cell(group, place, metric) for metric in self.metrics)

    def numbers(self, group: Group, place: Column) -> dict[str, Any]:
        setting = self.results.setting(group)
        cells = {metric: cell for metric in self.metrics if (cell := self.cell(group, place, metric))}
        return dict(
            method=self.results.name(group), encoder=encoder_label(setting["encoder"]), epochs=epochs_label(setting),
            dataset=place.title, requested_splits=max(cell.of for cell in cells.values()),
            **{metric: dict(mean=cell.mean, std=cell.std, values=[value for value in cell.values if value is not None])
               for metric, cell in cells.items()},
        )

    def draw(self) -> Figure:
        width = TEXT_WIDTH if len(self.groups) * len(self.places) > 4 or len(self.metrics) > 2 else COLUMN_WIDTH
        colors = self._colors()
        labels, handles = list(map(self.results.name, self.groups)), [Patch(facecolor=colors[g]) for g in self.groups]
        if any(cell.n < cell.of for cell in self.results.cells.values()):
            handles.append(Patch(facecolor="white", edgecolor="black", hatch=UNFINISHED))
            labels.append("unfinished")
        count = len(self.metrics)
        figure, axes = new_figure(count, width=width, height=2.1 + legend_height(labels, width), sharey=True)
        panel = (width - 0.6) / count  # inches
        highest = [self._draw_panel(axis, metric, colors, panel) for axis, metric in zip(axes, self.metrics, strict=True)]
        axes[0].set_ylim(0, max(highest) * HEADROOM or 1)
        axes[0].set_ylabel("AP (points)")
        outside_legend(figure, handles, labels, "lower center")
        return figure

    def _draw_panel(self, axis: Axes, metric: str, colors: dict[Group, Any], inches: float) -> float:
        """Draws the bars of a metric in a panel ``inches`` wide, and returns how high they reach."""
        places = [place for place in self.places if any(self.cell(group, place, metric) for group in self.groups)]
        width, limits = GROUP_WIDTH / len(self.groups), (-0.55, len(places) - 0.45)
        unit = inches / (limits[1] - limits[0])
        highest = 0.0
        for index, group in enumerate(self.groups):
            for position, place in enumerate(places):
                if cell := self.cell(group, place, metric):
                    x = position + (index + 0.5) * width - GROUP_WIDTH / 2
                    highest = max(highest, _draw_bar(axis, x, width, cell, colors[group], width * unit))
        base, power, exponent = METRIC_TITLES.get(metric, metric).partition("^")
        axis.set_title(f"{base}$^{{{exponent}}}$" if power else base, parse_math=bool(power))
        axis.set_xlim(limits)
        axis.set_xticks(range(len(places)), ["\n".join(wrapped(place.title, unit, TICK_SIZE)) for place in places])
        axis.tick_params(axis="x", length=0)
        axis.grid(visible=False, axis="x")
        return highest

    def _colors(self) -> dict[Group, Any]:
        """The methods' colours; groups that would have the same one have shades of it."""
        by_color: dict[str, list[Group]] = {}
        for group in self.groups:
            by_color.setdefault(method_color(shown_method(self.results.methods[group[0]])), []).append(group)
        return {group: shade for color, alike in by_color.items()
                for group, shade in zip(alike, shades(color, len(alike)), strict=True)}


def _draw_bar(axis: Axes, x: float, width: float, cell: Cell, color: Any, inches: float) -> float:
    """Draws one bar around ``x``, so many ``inches`` wide, and returns how high it reaches with all that belongs to it."""
    finished = f"({cell.n}/{cell.of})" if cell.n < cell.of else ""
    if cell.mean is None:
        _annotate(axis, x, 0, finished, inches)
        return 0.0
    axis.bar(x, cell.mean, width * 0.92, color=color, edgecolor="black", hatch=UNFINISHED if finished else None)
    if cell.std is not None:
        axis.errorbar(x, cell.mean, cell.std, color="black", linewidth=0.8, capsize=2, capthick=0.8)
    step = DOT_SPREAD * width / max(1, cell.of - 1)
    dots = [(x + (index - (cell.of - 1) / 2) * step, value) for index, value in enumerate(cell.values) if value is not None]
    axis.scatter(*zip(*dots, strict=True), s=7, facecolor="white", edgecolor="black", linewidths=0.5, zorder=3)
    top = max(*(value for _, value in dots), cell.mean + (cell.std or 0))
    _annotate(axis, x, top, "\n".join(filter(None, [f"{cell.mean:.1f}", finished])), inches)
    return top


def _annotate(axis: Axes, x: float, y: float, text: str, inches: float) -> None:
    """Writes above a bar, unless the text is wider than it is."""
    if max(map(len, text.split("\n"))) * CHARACTER * NUMBER_SIZE > inches:
        return
    axis.annotate(text, (x, y), xytext=(0, 2.5), textcoords="offset points", ha="center", va="bottom", fontsize=NUMBER_SIZE)
