"""How pretrainings went: losses, contrastive accuracy, learning rate and throughput (LoCo, supplement, figure 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pretrain.figures.labels import legend_height, outside_legend, told_apart, wrapped
from pretrain.figures.style import (
    BLACK,
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
from pretrain.methods import Method, method_of_config, named_method
from pretrain.training_log import TrainingLog, find_training_logs, read_training_log

COLUMNS = 3
MOST_NAMED = 6  # units in a legend
PANEL_HEIGHT, TITLE_LINE = 2.15, 0.15  # inches
MARKED = 0.15  # of an axis's diagonal, between the marks of a line that is told by them
WIDEST_LINE = 3.0  # points
DASHES = ("-", "--", "-.", ":")  # of lines that are no single method's
NOT_COMPARABLE = {  # where a setting of a run is, and what it is called; values depend on it
    "batch size": ("train_dataloader", "batch_size"),
    "threshold": ("model", "subsampling", "threshold"),
}
Paths = Sequence[str | Path]


@dataclass(frozen=True)
class RunGroup:
    """Runs of one config that differ in nothing but their seeds.

    Attributes:
        title: the method, and what tells the group from others of the same method.
        method: what they were trained with.
        logs: one a run.
    """

    title: str
    method: Method
    logs: Sequence[TrainingLog]

    @property
    def epochs(self) -> int | None:
        """Epochs of the whole schedule; None where it is not recorded."""
        return self.logs[0].config.get("train_cfg", {}).get("max_epochs")


def draw_curves(work_dirs: Paths) -> Drawing:
    """Training loss of every local unit over epochs; one panel a config, one line a unit and seed.

    Args:
        work_dirs: of pretrainings, finished or not, or folders above some.

    Raises:
        FileNotFoundError: a directory does not exist.
        ValueError: nothing was logged there, or none is given.
    """
    return _draw_units_of(work_dirs, "loss_", "training loss (nats)", 1, "NT-Xent training loss in nats")


def draw_accuracy(work_dirs: Paths) -> Drawing:
    """Contrastive accuracy of every local unit over epochs: how often a view's nearest other view is its counterpart.

    Args and errors: as :func:`draw_curves`.
    """
    return _draw_units_of(work_dirs, "accuracy_", "contrastive accuracy (%)", 100,
                          "Contrastive accuracy on training batches in percent")


def draw_learning_rate(work_dirs: Paths) -> Drawing:
    """Learning rate over epochs, one line a schedule, which many runs may follow; args and errors as :func:`draw_curves`."""
    groups = group_runs(work_dirs)
    schedules: dict[tuple[tuple[float, ...], ...], list[int]] = {}  # -> places of groups
    for place, group in enumerate(groups):
        for log in group.logs:
            followers = schedules.setdefault(tuple(map(tuple, log.series("lr"))), [])
            followers.extend([] if place in followers else [place])
    styles = line_styles([group.method for group in groups])
    labels = [_names([groups[place] for place in places], len(groups)) for places in schedules.values()]
    lines = [(series, styles[places[0]] if len(places) == 1 else dict(color=BLACK, linestyle=DASHES[index % len(DASHES)]),
              index) for index, (series, places) in enumerate(schedules.items())]
    return _draw_lines(groups, lines, labels, "lr", "learning rate", "Learning rate", nested=True)


def _names(groups: Sequence[RunGroup], of: int) -> str:
    """What to call the configs that share a schedule."""
    if len(groups) == 1:
        return groups[0].title
    methods = "; ".join(dict.fromkeys(group.method.label for group in groups))
    return f"all {of} configs" if len(groups) == of else f"{len(groups)} configs: {methods}"


def draw_throughput(work_dirs: Paths) -> Drawing:
    """Images a second over epochs, one line a run; args and errors as :func:`draw_curves`."""
    groups = group_runs(work_dirs)
    styles = line_styles([group.method for group in groups])
    lines = [(log.series("images_per_second"), styles[place], place)
             for place, group in enumerate(groups) for log in group.logs]
    return _draw_lines(groups, lines, [group.title for group in groups], "images_per_second", "throughput (images/s)",
                       "Training throughput in images per second")


def group_runs(work_dirs: Paths) -> list[RunGroup]:
    """Reads the logs, and puts runs together that differ in nothing but their seeds; errors as :func:`draw_curves`."""
    if not work_dirs:
        raise ValueError("there is no training log to draw; pass at least one work directory of tools/pretrain.py")
    grouped: dict[str, list[TrainingLog]] = {}
    for work_dir in find_training_logs(work_dirs):
        log = read_training_log(work_dir)
        grouped.setdefault(_config_but_seed(log), []).append(log)
    methods = [_method(logs[0]) for logs in grouped.values()]
    titles = told_apart([method.label for method in methods], [logs[0].work_dir for logs in grouped.values()])
    return [RunGroup(*group) for group in zip(titles, methods, grouped.values(), strict=True)]


def _config_but_seed(log: TrainingLog) -> str:
    if not log.config:  # not recorded: not to be taken for another's repetition
        return str(log.work_dir)
    randomness = {key: value for key, value in log.config.get("randomness", {}).items() if key != "seed"}
    return json.dumps({**log.config, "randomness": randomness}, sort_keys=True)


def _method(log: TrainingLog) -> Method:
    return method_of_config(log.config) if "rule" in log.config.get("model", {}) else named_method(log.work_dir.name)


def _draw_units_of(work_dirs: Paths, prefix: str, label: str, factor: float, what: str) -> Drawing:
    groups = group_runs(work_dirs)
    columns = 2 if len(groups) == 4 else min(COLUMNS, len(groups))
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    titles = [wrapped(_title(group), width / columns - 0.3, 8) for group in groups]
    with figure_style():
        figure, axes = new_figure(columns, -(-len(groups) // columns), width, sharex=True, sharey=True,
                                  height=PANEL_HEIGHT + TITLE_LINE * max(map(len, titles)))
        for index, (ax, group) in enumerate(zip(axes, groups, strict=False)):
            _draw_group(ax, group, prefix, factor)
            ax.set(title="\n".join(titles[index]), xlabel="epoch")
            ax.tick_params(labelbottom=True)
            if index % columns == 0:
                ax.set_ylabel(label)
        for ax in axes[len(groups):]:
            ax.set_visible(False)
        _set_epochs(axes[0], groups)
    caption = f"{what} of every local unit over epochs: {'; '.join(map(_told, groups))}. Means between lines of the log."
    caption += _warning(groups)
    return Drawing(figure, caption, {"runs": _numbers(groups, lambda log: {
        unit: log.series(f"{prefix}{unit}") for unit in log.units(prefix)}, factor)})


def _draw_group(ax: Axes, group: RunGroup, prefix: str, factor: float) -> None:
    """Draws every unit of a group in a shade of the method's colour, darker from the bottom up."""
    units = list(dict.fromkeys(unit for log in group.logs for unit in log.units(prefix)))
    named = _named(units)
    handles = {}
    for unit, color in zip(units, shades(method_color(group.method), len(units)), strict=True):
        for log in group.logs:
            epochs, values = log.series(f"{prefix}{unit}")
            [line] = ax.plot(epochs, [factor * value for value in values], method_dashes(group.method), color=color,
                             label=unit, linewidth=1.2 if len(group.logs) == 1 else 0.8, marker=_marker(epochs))
            if unit in named:
                handles[unit] = line
    top_first = [*handles][::-1]  # as in the network
    ax.legend([handles[unit] for unit in top_first], top_first, ncols=1 if len(units) < 3 else 2)


def _named(units: Sequence[str]) -> set[str]:
    """Units for a legend: all, or where they are many some at equal distances, the bottom and the top one among them."""
    step = max(1, -(-(len(units) - 1) // (MOST_NAMED - 1)))
    return {*units[::step], units[-1]} if units else set()


def _draw_lines(
    groups: Sequence[RunGroup], lines: Sequence[tuple[tuple, Mapping[str, Any], int]], labels: Sequence[str], name: str,
    axis_label: str, what: str, nested: bool = False,
) -> Drawing:
    """Draws a scalar of all runs in one panel.

    Args:
        groups: of runs.
        lines: epochs and values, the look, and the place of the label; the first of a label stands for it in the legend.
        labels: of the lines.
        name: of the scalar.
        axis_label: what it is.
        what: it is, for the caption.
        nested: whether lines, which may lie upon each other in part, are the wider the earlier.
    """
    narrowing = min(0.6, (WIDEST_LINE - 1.2) / max(1, len(labels) - 1)) if nested else 0  # points a line
    handles: dict[int, Line2D] = {}
    with figure_style():
        figure, (ax,) = new_figure(height=1.9 + legend_height(labels, COLUMN_WIDTH))
        for (epochs, values), look, place in lines:
            look = dict(look, marker=look.get("marker") or _marker(epochs))
            [line] = ax.plot(epochs, values, label=labels[place], markevery=1 if len(epochs) < 8 else MARKED,
                             linewidth=1.2 + narrowing * (len(labels) - 1 - place), **look)
            handles.setdefault(place, line)
        ax.set(xlabel="epoch", ylabel=axis_label)
        ax.set_ylim(bottom=0)
        _set_epochs(ax, groups)
        outside_legend(figure, [handles[place] for place in sorted(handles)], labels)
    return Drawing(figure, f"{what} over epochs: {'; '.join(map(_told, groups))}.",
                   {"runs": _numbers(groups, lambda log: {name: log.series(name)})})


def _warning(groups: Sequence[RunGroup]) -> str:
    """A sentence on settings in which runs differ although values on one axis depend on them; empty where there is none."""
    differing = []
    for name, keys in NOT_COMPARABLE.items():
        values = dict.fromkeys(_setting(group.logs[0].config, keys) for group in groups if group.logs[0].config)
        if len(values) > 1:
            differing.append(f"{name} ({', '.join('none' if value is None else f'{value:g}' for value in values)})")
    return f" Values of runs that differ in {' or '.join(differing)} cannot be compared." if differing else ""


def _setting(config: Mapping[str, Any], keys: Sequence[str]) -> float | None:
    value: Any = config
    for key in keys:
        value = (value or {}).get(key)
    return value


def _marker(epochs: Sequence[float]) -> str | None:
    return "." if len(epochs) < 8 else None


def _set_epochs(ax: Axes, groups: Sequence[RunGroup]) -> None:
    ax.set_xlim(0, max(log.epochs_done for group in groups for log in group.logs))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _title(group: RunGroup) -> str:
    seeds = f", {len(group.logs)} seeds" if len(group.logs) > 1 else ""
    unfinished = _unfinished(group)
    return f"{group.title}{seeds}" + (f"\n{unfinished}" if unfinished else "")


def _told(group: RunGroup) -> str:
    return _title(group).replace("\n", ", ")


def _unfinished(group: RunGroup) -> str:
    """How far a group is that has not run all its epochs."""
    done = [log.epochs_done for log in group.logs]
    if group.epochs is None or min(done) == group.epochs:
        return ""
    return f"epoch {'–'.join(map(str, sorted({min(done), max(done)})))} of {group.epochs}"


def _numbers(
    groups: Sequence[RunGroup], series_of: Callable[[TrainingLog], Mapping[str, tuple]], factor: float = 1
) -> list[dict[str, Any]]:
    return [{
        "work_dir": str(log.work_dir),
        "method": group.method.label,
        "series": {name: {"epoch": epochs, "value": [factor * value for value in values]}
                   for name, (epochs, values) in series_of(log).items()},
    } for group in groups for log in group.logs]
