"""How pretrainings went: losses, metrics of the objectives, learning rate and throughput (LoCo, supplement, figure 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pretrain.engine.work_dir import RECORD_NAME
from pretrain.figures.labels import legend_height, outside_legend, wrapped
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
from pretrain.results.method import Method, differences, foreign_method, shown_method, unique_labels
from pretrain.results.store import canonical, read_record
from pretrain.results.table import in_words
from pretrain.results.training_log import TrainingLog, find_training_logs, read_training_log

COLUMNS = 3
MOST_NAMED = 6  # units in a legend
PANEL_HEIGHT, TITLE_LINE = 2.15, 0.15  # inches
MARKED = 0.15  # of an axis's diagonal, between the marks of a line that is identified by them
WIDEST_LINE = 3.0  # points
DASHES = ("-", "--", "-.", ":")  # of lines that are not of a single method
VALUES_DEPEND_ON = ("data", "image_size", "views", "batch_size")  # of a setting; and on the objective
LOSS = "loss"
METRICS = {  # axis, factor and caption of what objectives of this package measure
    "accuracy": ("contrastive accuracy (%)", 100, "Contrastive accuracy on training batches in percent"),
    "kept_positive": ("positive pairs kept (%)", 100, "Positive pairs that subsampling keeps in percent"),
    "kept_negative": ("negative pairs kept (%)", 100, "Negative pairs that subsampling keeps in percent"),
}
Paths = Sequence[str | Path]


@dataclass(frozen=True)
class RunGroup:
    """Runs of one method and setting, which differ in their seeds alone.

    Attributes:
        title: the method, and what distinguishes the group from others of the same method.
        identity: ``method`` and ``setting`` of the runs.
        logs: one a run.
    """

    title: str
    identity: Mapping[str, Any]
    logs: Sequence[TrainingLog]

    @property
    def method(self) -> Method:
        """What they were trained with."""
        return shown_method(self.identity["method"])

    @property
    def epochs(self) -> int | None:
        """Epochs of the whole schedule; None where it is not recorded."""
        return self.identity["setting"].get("epochs")

    @property
    def metrics(self) -> list[str]:
        """What was logged of the units, the loss first."""
        return list(dict.fromkeys(metric for log in self.logs for unit in log.units() for metric in log.metrics(unit)))


def draw_curves(work_dirs: Paths) -> dict[str, Drawing]:
    """Every training curve there is.

    Args:
        work_dirs: of pretrainings, finished or not, or folders above some.

    Returns:
        ``curves`` (the loss of every local unit), ``curves_<metric>`` for every other metric that was logged for units, such
        as ``curves_accuracy``, then ``curves_learning_rate`` and ``curves_throughput``.

    Raises:
        FileNotFoundError: a directory does not exist.
        ValueError: nothing was logged there, none is given, or a record is damaged.
    """
    groups = group_runs(work_dirs)
    metrics = [metric for metric in dict.fromkeys(name for group in groups for name in group.metrics) if metric != LOSS]
    return {
        "curves": draw_losses(groups),
        **{f"curves_{metric}": draw_metric(groups, metric) for metric in metrics},
        "curves_learning_rate": draw_learning_rate(groups),
        "curves_throughput": draw_throughput(groups),
    }


def draw_losses(groups: Sequence[RunGroup]) -> Drawing:
    """Training loss of every local unit over epochs; one panel a group, one line a unit and seed."""
    losses = {group.method.loss for group in groups}
    label = losses.pop() if len(losses) == 1 else ""
    titles = [_title(group, "" if label else group.method.loss) for group in groups]
    what = f"Training loss, {label}," if label else "Training loss"
    return _draw_units_of(groups, titles, LOSS, label or "training loss", 1, what)


def draw_metric(groups: Sequence[RunGroup], metric: str) -> Drawing:
    """A metric of every local unit over epochs, such as the accuracy; of the groups that logged it."""
    groups = [group for group in groups if metric in group.metrics]
    name = metric.replace("_", " ")
    return _draw_units_of(groups, list(map(_title, groups)), metric, *METRICS.get(metric, (name, 1, name.capitalize())))


def draw_learning_rate(groups: Sequence[RunGroup]) -> Drawing:
    """Learning rate over epochs, one line a schedule, which many runs may follow."""
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
    """What to call the groups that share a schedule."""
    if len(groups) == 1:
        return groups[0].title
    methods = "; ".join(dict.fromkeys(group.method.label for group in groups))
    return f"all {of} settings" if len(groups) == of else f"{len(groups)} settings: {methods}"


def draw_throughput(groups: Sequence[RunGroup]) -> Drawing:
    """Images a second over epochs, one line a run."""
    styles = line_styles([group.method for group in groups])
    lines = [(log.series("images_per_second"), styles[place], place)
             for place, group in enumerate(groups) for log in group.logs]
    return _draw_lines(groups, lines, [group.title for group in groups], "images_per_second", "throughput (images/s)",
                       "Training throughput in images per second")


def group_runs(work_dirs: Paths) -> list[RunGroup]:
    """Reads the logs, and puts runs of one method and setting together; errors as :func:`draw_curves`."""
    if not work_dirs:
        raise ValueError("there is no training log to draw; pass at least one work directory of tools/pretrain.py")
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


def _draw_units_of(
    groups: Sequence[RunGroup], titles: Sequence[str], metric: str, label: str, factor: float, what: str
) -> Drawing:
    columns = 2 if len(groups) == 4 else min(COLUMNS, len(groups))
    width = COLUMN_WIDTH if columns == 1 else TEXT_WIDTH
    lines = [wrapped(title, width / columns - 0.3, 8) for title in titles]
    prefix = f"{metric}_"
    with figure_style():
        figure, axes = new_figure(columns, -(-len(groups) // columns), width, sharex=True, sharey=True,
                                  height=PANEL_HEIGHT + TITLE_LINE * max(map(len, lines)))
        for index, (ax, group) in enumerate(zip(axes, groups, strict=False)):
            _draw_group(ax, group, prefix, factor)
            ax.set(title="\n".join(lines[index]), xlabel="epoch")
            ax.tick_params(labelbottom=True)
            if index % columns == 0:
                ax.set_ylabel(label)
        for ax in axes[len(groups):]:
            ax.set_visible(False)
        _set_epochs(axes[0], groups)
    shown = "; ".join(_in_one_line(title) for title in titles)
    caption = f"{what} of every local unit over epochs: {shown}. Means between lines of the log."
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
    shown = "; ".join(_in_one_line(_title(group)) for group in groups)
    return Drawing(figure, f"{what} over epochs: {shown}.",
                   {"runs": _numbers(groups, lambda log: {name: log.series(name)})})


def _warning(groups: Sequence[RunGroup]) -> str:
    """A sentence on what runs differ in although values on one axis depend on it; empty where there is nothing."""
    conditions = [{"objective": group.identity["method"].get("objective"),
                   **{key: group.identity["setting"].get(key) for key in VALUES_DEPEND_ON}}
                  for group in groups if "objective" in group.identity["method"]]
    if len({group["objective"]["type"] for group in conditions}) > 1:  # whose options have nothing in common
        conditions = [{**group, "objective": group["objective"]["type"]} for group in conditions]
    hints = [differences(each, conditions) for each in conditions]
    differing = []
    for name in hints[0] if hints else ():
        values = dict.fromkeys("none" if hint[name] is None else str(hint[name]) for hint in hints)
        differing.append(f"{name} ({', '.join(values)})")
    return f" Values of runs that differ in {' or '.join(differing)} cannot be compared." if differing else ""


def _marker(epochs: Sequence[float]) -> str | None:
    return "." if len(epochs) < 8 else None


def _set_epochs(ax: Axes, groups: Sequence[RunGroup]) -> None:
    ax.set_xlim(0, max(log.epochs_done for group in groups for log in group.logs))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _title(group: RunGroup, loss: str = "") -> str:
    seeds = f", {len(group.logs)} seeds" if len(group.logs) > 1 else ""
    return "\n".join(filter(None, [f"{group.title}{seeds}", loss, _unfinished(group)]))


def _in_one_line(title: str) -> str:
    return title.replace("\n", ", ")


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
        "method": group.title,
        "series": {name: {"epoch": epochs, "value": [factor * value for value in values]}
                   for name, (epochs, values) in series_of(log).items()},
    } for group in groups for log in group.logs]
