"""Figures of what tools/analyze.py finds: accuracy by depth, spectra, kept pairs (Fournier et al., figures 2, 1b, 5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter
from mmengine.logging import print_log

from pretrain.engine.work_dir import RECORD_NAME
from pretrain.figures.labels import legend_height, outside_legend, wrapped
from pretrain.figures.style import (
    COLUMN_WIDTH,
    TEXT_WIDTH,
    Drawing,
    figure_style,
    line_styles,
    method_color,
    method_dashes,
    new_figure,
    shades,
)
from pretrain.results.method import Method, differences, shown_method, unique_labels
from pretrain.results.store import ANALYSIS, Record, RecordError, canonical, find_records, read_record
from pretrain.results.table import in_words
from pretrain.results.training_log import TrainingLog, read_training_log, training_logs_below

DETAILS = {"probes": ("blocks",), "spectrum": ("points",), "kept": ("units", "epochs", "kept_positive", "kept_negative")}
FLOOR = 1e-8  # of normalised singular values: what is below is rounding
MAX_COLUMNS = 4
SPECTRUM_HEIGHT = 1.2  # inches, of the lines
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
KEPT_PREFIX = "kept_positive_"  # of a unit's scalar in a log
KEPT = {"positive": "positive pairs kept (%)", "negative": "negative pairs kept (%)"}
Series = tuple[Sequence[float], Sequence[float]]  # epochs, and values at them
Shares = Mapping[str, Mapping[str, Series]]  # of kept pairs: {unit: {"positive": ..., "negative": ...}}
Paths = Iterable[str | Path]


@dataclass(frozen=True)
class _Group:
    """Repetitions: encoders of one method and setting that were analysed alike."""

    label: str
    method: Method
    records: Sequence[Record]
    style: Mapping[str, Any]  # of its lines


def draw_probes(paths: Paths) -> Drawing:
    """Accuracy of a linear probe after every block; repetitions as their mean with a band of one standard deviation.

    Args:
        paths: files of ``tools/analyze.py --what probes``, or folders above some.

    Raises:
        RecordError: a path does not exist, or holds none.
    """
    groups = _groups(_find(paths, "probes"))
    lines = [_probe_line(group) for group in groups]
    with figure_style():
        labels = [group.label for group in groups]
        figure, (axis,) = new_figure(width=COLUMN_WIDTH, height=2.3 + legend_height(labels, COLUMN_WIDTH))
        for group, line in zip(groups, lines, strict=True):
            _draw_probes(axis, group, line)
        _name_blocks(axis, [line["names"] for line in lines])
        axis.set_ylabel("linear probe, top-1 (%)")
        outside_legend(figure, axis.lines, labels)
    return Drawing(figure, f"Accuracy of linear probes by depth on {_data_sets(groups)}: mean over repetitions, bands of "
                   "one sample standard deviation; marks where a local unit of the pretraining ends.", {"lines": lines})


def _probe_line(group: _Group) -> dict[str, Any]:
    blocks = group.records[0].content["details"]["blocks"]
    runs = [{row["stage"]: row["value"] for row in record.content["rows"] if row["metric"] == "top1"}
            for record in group.records]
    accuracies = [[run[block["name"]] for run in runs] for block in blocks]  # (blocks, runs)
    return {
        "method": group.label,
        "runs": len(runs),
        "names": [block["name"] for block in blocks],
        "top1": [fmean(values) for values in accuracies],
        "std": [stdev(values) if len(values) > 1 else None for values in accuracies],
        "ends_of_units": [block["name"] for block in blocks if block["end_of_unit"]],
    }


def _draw_probes(axis: Axes, group: _Group, line: Mapping[str, Any]) -> None:
    depth, mean = np.arange(1, len(line["names"]) + 1), np.array(line["top1"])
    ends = [place for place, name in enumerate(line["names"]) if name in line["ends_of_units"]]
    axis.plot(depth, mean, label=group.label, markevery=ends, **{**group.style, "marker": group.style["marker"] or "o"})
    if line["runs"] > 1:
        std = np.array(line["std"])
        axis.fill_between(depth, mean - std, mean + std, color=group.style["color"], alpha=0.2, linewidth=0)


def _name_blocks(axis: Axes, names: Sequence[Sequence[str]]) -> None:
    """Ticks at all blocks, called by their names where all encoders have the same."""
    deepest = max(map(len, names))
    if all(other == names[0] for other in names):
        axis.set_xticks(range(1, deepest + 1), names[0], rotation=90)
    else:
        axis.set_xticks(range(1, deepest + 1))
        axis.set_xlabel("block")


def draw_spectrum(paths: Paths) -> Drawing:
    """Singular values of the features' covariance by their rank, relative to the largest; a panel per stage.

    Args:
        paths: files of ``tools/analyze.py --what spectrum``, or folders above some.

    Raises:
        RecordError: a path does not exist, or holds none.
    """
    groups = _groups(_find(paths, "spectrum"))
    names = list(dict.fromkeys(point["name"] for group in groups for record in group.records
                               for point in record.content["details"]["points"]))
    with figure_style():
        figure = _draw_spectra(groups, names)
    return Drawing(figure, f"Singular values of the covariance of pooled features on {_data_sets(groups)}, relative to the "
                   f"largest and cut at {FLOOR:g}, after {', '.join(names)}; one line per run, and in the legends the "
                   "effective rank (RankMe), its mean and standard deviation over repetitions.",
                   {"points": {name: [_rank(group, name) for group in groups] for name in names}})


def _draw_spectra(groups: Sequence[_Group], names: Sequence[str]) -> Figure:
    columns = min(MAX_COLUMNS, len(names))
    rows, width = -(-len(names) // columns), COLUMN_WIDTH if columns < 3 else TEXT_WIDTH
    legend = 0.15 * (len(groups) + 1)  # inches, at the bottom of every panel
    labels = [group.label for group in groups]
    height = SPECTRUM_HEIGHT + legend + 0.6 + legend_height(labels, width) / rows
    figure, axes = new_figure(columns, rows, width=width, height=height, sharey=True)
    for place, (axis, name) in enumerate(zip(axes, names, strict=False)):
        for group in groups:
            for point in _points(group, name):
                axis.plot(np.arange(1, len(point["singular_values"]) + 1), _normalised(point["singular_values"]),
                          linewidth=1.2 if len(group.records) == 1 else 0.7, markevery=0.2, **group.style)
        axis.set(title=name, xlabel="singular value, by size", yscale="log")
        axis.yaxis.set(major_formatter=_power_of_ten, minor_formatter=NullFormatter())
        if place % columns == 0:
            axis.set_ylabel("singular value / largest")
        handles = [Line2D([], [], label=_rank_text(_rank(group, name)), **group.style)
                   for group in groups if _points(group, name)]
        axis.legend(handles=handles, title="effective rank", title_fontsize=7, handlelength=1.6, borderaxespad=0.2,
                    labelspacing=0.3, loc="lower left")
    lowest = min(0.1, *(axis.dataLim.y0 for axis in axes[: len(names)]))
    axes[0].set_ylim(lowest ** (1 + legend / SPECTRUM_HEIGHT), 2)  # so that the legends lie below all lines
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    outside_legend(figure, [Line2D([], [], **group.style) for group in groups], labels)
    return figure


def _power_of_ten(value: float, _: int) -> str:
    """A tick's label, without mathematical markup."""
    return f"10{str(round(math.log10(value))).translate(SUPERSCRIPTS)}"


def _points(group: _Group, name: str) -> list[Mapping[str, Any]]:
    """What every run of a group has at a point; nothing where the encoder has no such point."""
    return [point for record in group.records for point in record.content["details"]["points"] if point["name"] == name]


def _normalised(singular_values: Sequence[float]) -> np.ndarray:
    values = np.array(singular_values)
    return np.maximum(values / max(values.max(), np.finfo(float).tiny), FLOOR)


def _rank(group: _Group, name: str) -> dict[str, Any]:
    ranks = [point["effective_rank"] for point in _points(group, name)]
    return {"method": group.label, "effective_rank": fmean(ranks) if ranks else None,
            "std": stdev(ranks) if len(ranks) > 1 else None, "runs": len(ranks)}


def _rank_text(rank: Mapping[str, Any]) -> str:
    return f"{rank['effective_rank']:.1f}" + ("" if rank["std"] is None else f" ± {rank['std']:.1f}")


def draw_kept(paths: Paths) -> Drawing:
    """Positive and negative pairs that every unit kept, over epochs; a row of two panels per pretraining.

    Args:
        paths: work directories of ``tools/pretrain.py``, files of ``tools/analyze.py --what kept``, or folders above some.

    Raises:
        RecordError: a path does not exist, or holds none.
        ValueError: all pretrainings kept all pairs, or a record is damaged.
    """
    kept = _find_kept([Path(path) for path in paths])
    groups = _groups([record for record, _ in kept])
    shares = {record.path: found for record, found in kept}
    runs = [[shares[record.path] for record in group.records] for group in groups]
    with figure_style():
        figure, axes = new_figure(2, len(groups), width=TEXT_WIDTH, height=2.1, sharex=True, sharey=True)
        for row, (group, found) in enumerate(zip(groups, runs, strict=True)):
            _draw_kept(axes[2 * row : 2 * row + 2], group, found)
        for axis in axes[-2:]:
            axis.set_xlabel("epoch")
        axes[0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes[0].set_xlim(left=0)
    return Drawing(figure, "Shares of positive and negative pairs above the similarity threshold at every local unit, in "
                   f"percent over epochs of pretraining: {'; '.join(group.label for group in groups)}.",
                   {"runs": [{"method": group.label, "units": _percentages(run)}
                             for group, found in zip(groups, runs, strict=True) for run in found]})


def _find_kept(paths: Sequence[Path]) -> list[tuple[Record, Shares]]:
    """Records of pretrainings that logged kept pairs, and of analyses of other pretrainings."""
    logs = list(dict.fromkeys(work_dir for path in paths if path.is_dir() for work_dir in training_logs_below(path)))
    kept: list[tuple[Record, Shares]] = []
    for work_dir in logs:
        log = read_training_log(work_dir)
        if log.units(KEPT_PREFIX):
            kept.append((read_record(work_dir / RECORD_NAME), _kept_of_log(log)))
        else:
            print_log(f"left out: {work_dir} kept all pairs", logger="current")
    drawn = {_pretraining(record) for record, _ in kept}
    analysed = [record for record in _find(paths, "kept", needed=not logs) if _pretraining(record) not in drawn]
    kept += [(record, _kept_of_record(record)) for record in analysed]
    if not kept:
        raise ValueError(f"{logs[0]} logged no kept pairs: it trained on all of them; pass pretrainings with a threshold, "
                         "such as those of configs/pretrain/subsampling")
    return kept


def _pretraining(record: Record) -> str:
    """What a run and the analyses of its checkpoints have in common."""
    setting = {key: value for key, value in record.setting.items() if key != "epochs_done"}
    return canonical([record.method["key"], setting, record.content["repetition"]])


def _kept_of_log(log: TrainingLog) -> Shares:
    return {unit: {sign: log.series(f"kept_{sign}_{unit}") for sign in KEPT} for unit in log.units(KEPT_PREFIX)}


def _kept_of_record(record: Record) -> Shares:
    details = record.content["details"]
    return {unit: {sign: _known(details["epochs"], details[f"kept_{sign}"][unit]) for sign in KEPT}
            for unit in details["units"]}


def _known(epochs: Sequence[float], values: Sequence[float | None]) -> Series:
    """Without the times at which a unit was not trained."""
    pairs = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _draw_kept(axes: Sequence[Axes], group: _Group, runs: Sequence[Shares]) -> None:
    units = list(dict.fromkeys(unit for run in runs for unit in run))
    colors = dict(zip(units, shades(method_color(group.method), len(units)), strict=True))
    for axis, (sign, label) in zip(axes, KEPT.items(), strict=True):
        for run in runs:
            for unit, shares in run.items():
                epochs, values = shares[sign]
                axis.plot(epochs, [100 * value for value in values], method_dashes(group.method), color=colors[unit],
                          linewidth=1.2 if len(runs) == 1 else 0.7, marker="." if len(epochs) < 8 else None)
        axis.set(ylabel=label, ylim=(0, 104))
    axes[0].set_title("\n".join(wrapped(group.label, TEXT_WIDTH - 1, 8)), loc="left")
    handles = [Line2D([], [], linestyle=method_dashes(group.method), color=colors[unit], label=unit)
               for unit in reversed(units)]  # the top unit first
    axes[1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1.05), handlelength=1.8, labelspacing=0.2,
                   ncols=-(-len(units) // 10))


def _percentages(run: Shares) -> dict[str, dict[str, dict[str, list[float]]]]:
    return {unit: {sign: {"epoch": list(epochs), "percent": [100 * value for value in values]}
                   for sign, (epochs, values) in shares.items()} for unit, shares in run.items()}


def _find(paths: Paths, what: str, needed: bool = True) -> list[Record]:
    """The records of one analysis.

    Raises:
        RecordError: a path does not exist, a file that is given is not a record, or one is needed and there is none.
    """
    paths = [Path(path) for path in paths]
    records, warnings = find_records(paths)
    for warning in warnings:
        print_log(f"left out: {warning}", logger="current")
    found = [record for record in records if record.kind == ANALYSIS and record.content["protocol"]["name"] == what]
    if needed and not found:
        raise RecordError(f"no results of tools/analyze.py --what {what} in {', '.join(map(str, paths))}; run "
                          f"tools/analyze.py CHECKPOINT --what {what} first")
    for record in found:
        details = record.content.get("details")
        lacking = [key for key in DETAILS[what] if not isinstance(details, Mapping) or key not in details]
        if lacking:
            raise RecordError(f"{record.path} is damaged: it lacks {', '.join(lacking)}; run tools/analyze.py CHECKPOINT "
                              f"--what {what} again, or remove the file")
    return found


def _groups(records: Sequence[Record]) -> list[_Group]:
    """Puts analyses of repetitions together, in the order of their first ones."""
    grouped: dict[str, list[Record]] = {}
    for record in records:
        grouped.setdefault(canonical([record.method["key"], _conditions(record)]), []).append(record)
    firsts = [alike[0] for alike in grouped.values()]
    methods = [shown_method(record.method) for record in firsts]
    return [_Group(*group) for group in zip(_labels(firsts), methods, grouped.values(), line_styles(methods), strict=True)]


def _labels(records: Sequence[Record]) -> list[str]:
    """The methods, and where those are the same what else differs."""
    by_key = unique_labels(record.method for record in records)
    labels = []
    for record in records:
        alike = [other for other in records if other.method["key"] == record.method["key"]]
        hints = differences(_conditions(record), map(_conditions, alike))
        if len(hints) > 1:
            hints.pop("fingerprint", None)
        words = in_words({name: value for name, value in hints.items() if value is not None})
        labels.append(by_key[record.method["key"]] + (f" ({words})" if words else ""))
    return labels


def _conditions(record: Record) -> dict[str, Any]:
    """What repetitions have in common beside the method."""
    protocol = {key: value for key, value in record.content["protocol"].items() if key != "name"}
    return {"setting": record.setting, "protocol": protocol, "dataset": _dataset(record)}


def _dataset(record: Record) -> str:
    return next((row["dataset"] for row in record.content["rows"]), "")


def _data_sets(groups: Sequence[_Group]) -> str:
    return " and ".join(dict.fromkeys(_dataset(group.records[0]) for group in groups))
