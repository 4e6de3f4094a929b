"""How pretrainings went: losses, metrics of the objectives, learning rate and throughput (LoCo, supplement, figure 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pretrain.engine.work_dir import RECORD_NAME
from pretrain.figures.style import (
    BLACK,
    COLUMN_WIDTH,
    TEXT_WIDTH,
    Drawing,
    figure_style,
    legend_height,
    line_styles,
    method_color,
    new_figure,
    outside_legend,
    shades,
    wrapped,
)
from pretrain.results.method import Method, differences, foreign_method, shown_method, unique_labels
from pretrain.results.store import canonical, read_record
from pretrain.results.table import in_words
from pretrain.results.training_log import TrainingLog, find_training_logs, read_training_log

MOST_NAMED = 6  # units in a legend
VALUES_DEPEND_ON = ("data", "image_size", "views", "batch_size")  # of a setting; and on the objective
METRICS = {  # axis and factor of what objectives of this package measure
    "accuracy": ("contrastive accuracy (%)", 100),
    "knn": ("kNN accuracy (%)", 100),
    "correlation": ("correlation of the views", 1),
    "kept_positive": ("positive pairs kept (%)", 100),
    "kept_negative": ("negative pairs kept (%)", 100),
}
Series = tuple[Sequence[float], Sequence[float]]  # epochs, and values at them


@dataclass(frozen=True)
class RunGroup:
    """Runs of one method and setting, which differ in their seeds alone.

    Attributes:
        title: the method, and what distinguishes the group from others of the same method.
        identity: ``method`` and ``setting`` of the runs.
        logs: one per run.
    """

    title: str
    identity: Mapping[str, Any]
    logs: Sequence[TrainingLog]

    @property
    def method(self) -> Method:
        """What they were trained with."""
        return shown_method(self.identity["method"])

    @property
    def metrics(self) -> list[str]:
        """What was logged of the units, the loss first."""
        return list(dict.fromkeys(metric for log in self.logs for unit in log.units() for metric in log.metrics(unit)))


def draw_curves(work_dirs: Iterable[str | Path]) -> dict[str, Drawing]:
    """Every training curve there is.

    Args:
        work_dirs: of pretrainings, finished or not, or folders above some.

    Returns:
        ``curves`` (the loss of every local unit), ``curves_<metric>`` for every other metric that was logged of units, such
        as ``curves_accuracy`` or the second paper's ``curves_kept_positive``, ``curves_learning_rate`` and
        ``curves_throughput``.

    Raises:
        FileNotFoundError: a directory does not exist.
        ValueError: nothing was logged there, or a record is damaged.
    """
    groups = group_runs(work_dirs)
    metrics = dict.fromkeys(metric for group in groups for metric in group.metrics)
    units = {f"curves_{metric}".removesuffix("_loss"): _draw_metric(groups, metric) for metric in metrics}
    return {**units, "curves_learning_rate": _draw_learning_rate(groups), "curves_throughput": _draw_throughput(groups)}


def group_runs(work_dirs: Iterable[str | Path]) -> list[RunGroup]:
    """Reads the logs, and puts runs of one method and setting together; errors as :func:`draw_curves`."""
    grouped: dict[str, list[TrainingLog]] = {}
    identities = {}
    for work_dir in find_training_logs(work_dirs):
        identity = _identity(work_dir)
        key = canonical([identity["method"]["key"], identity["setting"]])
        identities.setdefault(key, identity)
        grouped.setdefault(key, []).append(read_training_log(work_dir))
    labels = unique_labels(identity["method"] for identity in identities.values())
    groups = []
    for key, identity in identities.items():
        method = identity["method"]["key"]
        alike = [other["setting"] for other in identities.values() if other["method"]["key"] == method]
        hints = in_words(differences(identity["setting"], alike))
        groups.append(RunGroup(labels[method] + (f" ({hints})" if hints else ""), identity, grouped[key]))
    return groups


def _identity(work_dir: Path) -> dict[str, Any]:
    """Method and setting of a run; a folder without a record stands for itself."""
    file = work_dir / RECORD_NAME
    if file.is_file():
        record = read_record(file)
        return {"method": record.method, "setting": record.setting}
    return {"method": foreign_method("file", work_dir.name), "setting": {"folder": str(work_dir.resolve())}}


def _draw_metric(groups: Sequence[RunGroup], metric: str) -> Drawing:
    """A metric of every local unit over epochs: one panel per group that logged it, one line per unit and seed."""
    groups = [group for group in groups if metric in group.metrics]
    label, factor = METRICS.get(metric, (metric.replace("_", " "), 1))
    titles = [_title(group) for group in groups]
    if metric == "loss":
        losses = {group.method.loss for group in groups}
        label = "training loss" if len(losses) > 1 else losses.pop() or "training loss"
        if len(losses) > 1:
            titles = [f"{title}\n{group.method.loss}" for title, group in zip(titles, groups, strict=True)]
    columns = 2 if len(groups) == 4 else min(3, len(groups))
    rows = -(-len(groups) // columns)
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    lines = [wrapped(title, width / columns - 0.3) for title in titles]
    height = 2.15 + 0.15 * max(title.count("\n") + 1 for title in lines)
    with figure_style():
        figure, axes = new_figure(columns, rows, width, rows * height, sharex=True, sharey=True)
        for index, (ax, group) in enumerate(zip(axes, groups, strict=False)):
            _draw_group(ax, group, f"{metric}_", factor)
            ax.set(title=lines[index], xlabel="epoch")
            ax.tick_params(labelbottom=True)
            if index % columns == 0:
                ax.set_ylabel(label)
        for ax in axes[len(groups):]:
            ax.set_visible(False)
        _set_epochs(axes[0], groups)
    return Drawing(figure, f"{_capitalised(label)} of every local unit over epochs: {_in_one_line(titles)}. Means between "
                   f"lines of the log.{_warning(groups)}")


def _draw_group(ax: Axes, group: RunGroup, prefix: str, factor: float) -> None:
    """Draws every unit of a group in a shade of the method's colour, darker from the bottom up."""
    units = list(dict.fromkeys(unit for log in group.logs for unit in log.units(prefix)))
    handles = {}
    for unit, color in zip(units, shades(method_color(group.method), len(units)), strict=True):
        for log in group.logs:
            epochs, values = log.series(f"{prefix}{unit}")
            [handles[unit]] = ax.plot(epochs, [factor * value for value in values], color=color, label=unit,
                                      linestyle="--" if group.method.subsampled else "-", marker=_marker(epochs),
                                      linewidth=1.2 if len(group.logs) == 1 else 0.8)
    step = max(1, -(-(len(units) - 1) // (MOST_NAMED - 1)))
    named = [unit for index, unit in enumerate(units) if index % step == 0 or unit == units[-1]][::-1]  # top first
    ax.legend([handles[unit] for unit in named], named, ncols=1 if len(units) < 3 else 2)


def _draw_learning_rate(groups: Sequence[RunGroup]) -> Drawing:
    """Learning rate over epochs, one line per schedule, which many groups may follow."""
    followers: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        followers.setdefault(canonical(group.logs[0].series("lr")), []).append(place)
    styles = line_styles([group.method for group in groups])
    lines = [(groups[places[0]].logs[0].series("lr"), styles[places[0]] if len(places) == 1 else dict(color=BLACK),
              "; ".join(groups[place].title for place in places)) for places in followers.values()]
    return _draw_lines(groups, lines, "learning rate")


def _draw_throughput(groups: Sequence[RunGroup]) -> Drawing:
    """Images per second over epochs, one line per run."""
    styles = line_styles([group.method for group in groups])
    return _draw_lines(groups, [(log.series("images_per_second"), style, group.title)
                                for group, style in zip(groups, styles, strict=True) for log in group.logs],
                       "throughput (images/s)")


def _draw_lines(
    groups: Sequence[RunGroup], lines: Sequence[tuple[Series, Mapping[str, Any], str]], axis_label: str
) -> Drawing:
    """Draws a scalar of all runs in one panel, of which every line is given by its values, look and label."""
    handles = {}
    with figure_style():
        labels = list(dict.fromkeys(label for _, _, label in lines))
        figure, (ax,) = new_figure(height=1.9 + legend_height(labels, COLUMN_WIDTH))
        for (epochs, values), look, label in lines:
            look = dict(look, marker=look.get("marker") or _marker(epochs))
            [handles[label]] = ax.plot(epochs, values, markevery=1 if len(epochs) < 8 else 0.15, **look)
        ax.set(xlabel="epoch", ylabel=axis_label)
        ax.set_ylim(bottom=0)
        _set_epochs(ax, groups)
        outside_legend(figure, [handles[label] for label in labels], labels)
    return Drawing(figure, f"{_capitalised(axis_label)} over epochs: {_in_one_line(map(_title, groups))}.")


def _warning(groups: Sequence[RunGroup]) -> str:
    """A sentence on what runs differ in although values on one axis depend on it; empty where there is nothing."""
    conditions = [{"objective": group.identity["method"].get("objective"),
                   **{key: group.identity["setting"].get(key) for key in VALUES_DEPEND_ON}} for group in groups]
    differing = [key for key in conditions[0] if len({canonical([each[key]]) for each in conditions}) > 1]
    return f" Values cannot be compared where runs differ in {', '.join(differing)}." if differing else ""


def _marker(epochs: Sequence[float]) -> str | None:
    return "." if len(epochs) < 8 else None


def _set_epochs(ax: Axes, groups: Sequence[RunGroup]) -> None:
    ax.set_xlim(0, max(log.epochs_done for group in groups for log in group.logs))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _title(group: RunGroup) -> str:
    """The group, its seeds, and how far it is where it has not run all its epochs."""
    seeds = f", {len(group.logs)} seeds" if len(group.logs) > 1 else ""
    done, epochs = min(log.epochs_done for log in group.logs), group.identity["setting"].get("epochs")
    return f"{group.title}{seeds}" + (f"\nepoch {done} of {epochs}" if epochs is not None and done < epochs else "")


def _in_one_line(titles: Iterable[str]) -> str:
    return "; ".join(title.replace("\n", ", ") for title in titles)


def _capitalised(text: str) -> str:
    return text[0].upper() + text[1:]
