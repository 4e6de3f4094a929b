"""Figures of what tools/analyze.py finds: accuracy by depth and spectra of features (Fournier et al., figures 2 and 1b).

The pairs that subsampling keeps (figure 5) are training curves, see :mod:`pretrain.figures.curves`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from mmengine.logging import print_log

from pretrain.figures.style import (
    COLUMN_WIDTH,
    TEXT_WIDTH,
    Drawing,
    figure_style,
    legend_height,
    line_styles,
    new_figure,
    outside_legend,
)
from pretrain.results.files import RecordError
from pretrain.results.method import differences, shown_method, unique_labels
from pretrain.results.store import ANALYSIS, Record, canonical, find_records
from pretrain.results.table import in_words

FLOOR = 1e-8  # of normalised singular values: what is below is rounding
Paths = Iterable[str | Path]


@dataclass(frozen=True)
class _Group:
    """Repetitions: encoders of one method and setting that were analysed alike, and the look of their lines."""

    label: str
    records: Sequence[Record]
    style: Mapping[str, Any]


def draw_probes(paths: Paths) -> Drawing:
    """Accuracy of a linear probe after every block; repetitions as their mean with a band of one standard deviation.

    Args:
        paths: files of ``tools/analyze.py probes``, or folders above some.

    Raises:
        RecordError: a path does not exist, or holds none.
    """
    groups = _groups(_find(paths, "probes"))
    labels = [group.label for group in groups]
    blocks = [[block["name"] for block in group.records[0].content["details"]["blocks"]] for group in groups]
    with figure_style():
        figure, (ax,) = new_figure(width=COLUMN_WIDTH, height=2.3 + legend_height(labels, COLUMN_WIDTH))
        for group in groups:
            _draw_probes(ax, group)
        if all(names == blocks[0] for names in blocks):
            ax.set_xticks(range(1, len(blocks[0]) + 1), blocks[0], rotation=90)
        else:
            ax.set_xticks(range(1, max(map(len, blocks)) + 1))
            ax.set_xlabel("block")
        ax.set_ylabel("linear probe, top-1 (%)")
        outside_legend(figure, ax.lines, labels)
    return Drawing(figure, f"Accuracy of linear probes by depth on {_data_sets(groups)}: mean over repetitions, bands of "
                   "one sample standard deviation; marks where a local unit of the pretraining ends.")


def _draw_probes(ax: Axes, group: _Group) -> None:
    blocks = group.records[0].content["details"]["blocks"]
    runs = [{row["stage"]: row["value"] for row in record.content["rows"] if row["metric"] == "top1"}
            for record in group.records]
    accuracies = np.array([[run[block["name"]] for block in blocks] for run in runs])  # (runs, blocks)
    depth, mean = np.arange(1, len(blocks) + 1), accuracies.mean(axis=0)
    ends = [place for place, block in enumerate(blocks) if block["end_of_unit"]]
    ax.plot(depth, mean, label=group.label, markevery=ends, **{**group.style, "marker": group.style["marker"] or "o"})
    if len(runs) > 1:
        std = accuracies.std(axis=0, ddof=1)
        ax.fill_between(depth, mean - std, mean + std, color=group.style["color"], alpha=0.2, linewidth=0)


def draw_spectrum(paths: Paths) -> Drawing:
    """Singular values of the features' covariance by their rank, relative to the largest; a panel per stage.

    Args:
        paths: files of ``tools/analyze.py spectrum``, or folders above some.

    Raises:
        RecordError: a path does not exist, or holds none.
    """
    groups = _groups(_find(paths, "spectrum"))
    names = list(dict.fromkeys(point["name"] for group in groups for record in group.records
                               for point in record.content["details"]["points"]))
    labels = [group.label for group in groups]
    columns = min(4, len(names))
    rows, width = -(-len(names) // columns), COLUMN_WIDTH if columns < 3 else TEXT_WIDTH
    height = rows * (1.8 + 0.15 * len(groups)) + legend_height(labels, width)  # inches
    with figure_style():
        figure, axes = new_figure(columns, rows, width, height, sharey=True)
        for place, (ax, name) in enumerate(zip(axes, names, strict=False)):
            _draw_spectra(ax, groups, name)
            if place % columns == 0:
                ax.set_ylabel("singular value / largest")
        for ax in axes[len(names):]:
            ax.set_visible(False)
        outside_legend(figure, [Line2D([], [], **group.style) for group in groups], labels)
    return Drawing(figure, f"Singular values of the covariance of pooled features on {_data_sets(groups)}, relative to the "
                   f"largest and cut at {FLOOR:g}, after {', '.join(names)}; one line per run, and below each panel the "
                   "effective rank (RankMe), its mean and standard deviation over repetitions.")


def _draw_spectra(ax: Axes, groups: Sequence[_Group], name: str) -> None:
    handles = []
    for group in groups:
        points = [point for record in group.records for point in record.content["details"]["points"]
                  if point["name"] == name]
        for point in points:
            values = np.array(point["singular_values"])
            relative = np.maximum(values / max(values.max(), np.finfo(float).tiny), FLOOR)
            ax.plot(np.arange(1, len(values) + 1), relative, linewidth=1.2 if len(group.records) == 1 else 0.7,
                    markevery=0.2, **group.style)
        ranks = [point["effective_rank"] for point in points]
        if ranks:
            std = f" ± {stdev(ranks):.1f}" if len(ranks) > 1 else ""
            handles.append(Line2D([], [], label=f"{fmean(ranks):.1f}{std}", **group.style))
    ax.set(title=name, xlabel="singular value, by size", yscale="log")
    ax.yaxis.set(major_formatter="{x:.0e}", minor_formatter=NullFormatter())
    ax.legend(handles=handles, title="effective rank", handlelength=1.6, loc="upper center", bbox_to_anchor=(0.5, -0.28))


def _find(paths: Paths, what: str) -> list[Record]:
    """The records of one analysis."""
    paths = list(paths)
    records, warnings = find_records(paths)
    for warning in warnings:
        print_log(f"left out: {warning}", logger="current")
    found = [record for record in records if record.kind == ANALYSIS and record.content["protocol"]["name"] == what]
    if not found:
        raise RecordError(f"no results of tools/analyze.py {what} in {', '.join(map(str, paths))}; run "
                          f"tools/analyze.py {what} CHECKPOINT first")
    for record in found:
        if "details" not in record.content:
            raise RecordError(f"{record.path} is damaged: it has no details; run tools/analyze.py again, or remove the file")
    return found


def _groups(records: Sequence[Record]) -> list[_Group]:
    """Puts analyses of repetitions together, in the order of their first ones."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(canonical([record.method["key"], _conditions(record)]), []).append(record)
    firsts = [alike[0] for alike in grouped.values()]
    styles = line_styles([shown_method(record.method) for record in firsts])
    return [_Group(*group) for group in zip(_labels(firsts), grouped.values(), styles, strict=True)]


def _labels(records: Sequence[Record]) -> list[str]:
    """The methods, and where those are the same what else differs."""
    by_key = unique_labels(record.method for record in records)
    labels = []
    for record in records:
        alike = [_conditions(other) for other in records if other.method["key"] == record.method["key"]]
        differing = differences(_conditions(record), alike)
        hints = in_words({name: value for name, value in differing.items() if value is not None})
        labels.append(by_key[record.method["key"]] + (f" ({hints})" if hints else ""))
    return labels


def _conditions(record: Record) -> dict[str, Any]:
    """What repetitions have in common beside the method."""
    return {"setting": record.setting, "protocol": record.content["protocol"], "dataset": _dataset(record)}


def _dataset(record: Record) -> str:
    return next((row["dataset"] for row in record.content["rows"]), "")


def _data_sets(groups: Sequence[_Group]) -> str:
    return " and ".join(dict.fromkeys(_dataset(group.records[0]) for group in groups))
