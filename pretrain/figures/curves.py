"""How pretrainings went: losses, contrastive accuracy, learning rate and throughput (LoCo, supplement, figure 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pretrain.figures.labels import told_apart
from pretrain.figures.style import (
    COLUMN_WIDTH,
    TEXT_WIDTH,
    Drawing,
    figure_style,
    method_color,
    method_dashes,
    new_figure,
    shades,
)
from pretrain.methods import Method, method_of_config, named_method
from pretrain.training_log import TrainingLog, read_training_log

COLUMNS = 3
MOST_NAMED = 6  # units in a legend
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
        work_dirs: of pretrainings, finished or not.

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
    """Learning rate over epochs, one line a run; args and errors as :func:`draw_curves`."""
    return _draw_scalar(work_dirs, "lr", "learning rate", "Learning rate", nested=True)


def draw_throughput(work_dirs: Paths) -> Drawing:
    """Images a second over epochs, one line a run; args and errors as :func:`draw_curves`."""
    return _draw_scalar(work_dirs, "images_per_second", "throughput (images/s)", "Training throughput in images per second")


def group_runs(work_dirs: Paths) -> list[RunGroup]:
    """Reads the logs, and puts runs together that differ in nothing but their seeds; errors as :func:`draw_curves`."""
    if not work_dirs:
        raise ValueError("there is no training log to draw; pass at least one work directory of tools/pretrain.py")
    grouped: dict[str, list[TrainingLog]] = {}
    for work_dir in dict.fromkeys(Path(work_dir) for work_dir in work_dirs):
        log = read_training_log(work_dir)
        grouped.setdefault(_config_but_seed(log), []).append(log)
    methods = [_method(logs[0]) for logs in grouped.values()]
    titles = told_apart([method.label for method in methods], [logs[0].work_dir.name for logs in grouped.values()])
    return [RunGroup(*group) for group in zip(titles, methods, grouped.values(), strict=True)]


def _config_but_seed(log: TrainingLog) -> str:
    if not log.config:  # not recorded: not to be taken for another's repetition
        return str(log.work_dir)
    randomness = {key: value for key, value in log.config.get("randomness", {}).items() if key != "seed"}
    return json.dumps({**log.config, "randomness": randomness}, sort_keys=True)


def _method(log: TrainingLog) -> Method:
    return method_of_config(log.config) if log.config else named_method(log.work_dir.name)


def _draw_units_of(work_dirs: Paths, prefix: str, label: str, factor: float, what: str) -> Drawing:
    groups = group_runs(work_dirs)
    columns = 2 if len(groups) == 4 else min(COLUMNS, len(groups))
    with figure_style():
        figure, axes = new_figure(columns, -(-len(groups) // columns), COLUMN_WIDTH if columns == 1 else TEXT_WIDTH,
                                  sharex=True, sharey=True)
        for index, (ax, group) in enumerate(zip(axes, groups, strict=False)):
            _draw_group(ax, group, prefix, factor)
            ax.set(title=_title(group), xlabel="epoch")
            ax.tick_params(labelbottom=True)
            if index % columns == 0:
                ax.set_ylabel(label)
        for ax in axes[len(groups):]:
            ax.set_visible(False)
        _set_epochs(axes[0], groups)
    caption = f"{what} of every local unit over epochs: {'; '.join(map(_told, groups))}. Means between lines of the log."
    return Drawing(figure, caption, {"runs": _numbers(groups, lambda log: {
        unit: log.series(f"{prefix}{unit}") for unit in log.units(prefix)}, factor)})


def _draw_group(ax: Axes, group: RunGroup, prefix: str, factor: float) -> None:
    """Draws every unit of a group in a shade of the method's colour, darker from the bottom up."""
    units = list(dict.fromkeys(unit for log in group.logs for unit in log.units(prefix)))
    named = _named(units)
    for unit, color in zip(units, shades(method_color(group.method), len(units)), strict=True):
        label = unit if unit in named else None
        for log in group.logs:
            epochs, values = log.series(f"{prefix}{unit}")
            ax.plot(epochs, [factor * value for value in values], method_dashes(group.method), color=color, label=label,
                    linewidth=1.2 if len(group.logs) == 1 else 0.8, marker=_marker(epochs))
            label = None
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], ncols=1 if len(units) < 3 else 2)  # the top unit first, as in the network


def _named(units: Sequence[str]) -> set[str]:
    """Units for a legend: all, or where they are many some at equal distances, the bottom and the top one among them."""
    step = max(1, -(-(len(units) - 1) // (MOST_NAMED - 1)))
    return {*units[::step], units[-1]} if units else set()


def _draw_scalar(work_dirs: Paths, name: str, label: str, what: str, nested: bool = False) -> Drawing:
    """Draws a scalar of all runs; ``nested`` ones, which may be equal, as lines of different widths one upon the other."""
    groups = group_runs(work_dirs)
    with figure_style():
        figure, (ax,) = new_figure()
        for index, group in enumerate(groups):
            title = group.title
            for log in group.logs:
                epochs, values = log.series(name)
                ax.plot(epochs, values, method_dashes(group.method), color=method_color(group.method), label=title,
                        linewidth=1.2 + 1.3 * nested * (len(groups) - 1 - index), marker=_marker(epochs))
                title = None
        ax.set(xlabel="epoch", ylabel=label)
        ax.set_ylim(bottom=0)
        _set_epochs(ax, groups)
        figure.legend(loc="outside upper center", ncols=min(3, len(groups)))
    return Drawing(figure, f"{what} over epochs: {'; '.join(map(_told, groups))}.",
                   {"runs": _numbers(groups, lambda log: {name: log.series(name)})})


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
