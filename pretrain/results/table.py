"""Tables of results: mean ± standard deviation (difference to a baseline) (finished/requested repetitions).

Rows are methods, columns are data sets and protocols, and averages go over repetitions only. Methods that have
hyper-parameters of their own must be comparable in one column, so a method has one row for each setting that it was trained
in, and how its setting and objective differ from the baseline's is said below the table.

The tables of both papers are layouts of the same kind: ``papers/*.json`` name their rows, columns and published numbers.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from itertools import zip_longest
from typing import Any

import pandas as pd

from pretrain.encoders import encoder_label, encoder_spec
from pretrain.results.method import RANDOM, differences, foreign_method, shown_method, standard_method, unique_labels
from pretrain.results.store import DETECTION, Record, canonical, epochs_label, read_rows, values_by_repetition

BASELINES = ("SimCLR", "decoupled, K = 1")  # the first of these that has results
MAIN_METRICS = ("bbox_AP", "segm_AP", "official_AP", "top1")
METRIC_TITLES = {"bbox_AP": "AP^bb", "segm_AP": "AP^mk", "official_AP": "AP (cityscapesscripts)", "top1": "top-1",
                 "train_top1": "training top-1",
                 "largest_unit_macs": "Max MACs", "memory_bytes": "Memory", "memory_saving": "Memory saving"}
DATASET_TITLES = {"coco": "COCO", "cityscapes": "Cityscapes", "coco10k": "COCO-10K", "coco1k": "COCO-1K",
                  "imagenet": "ImageNet", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10",
                  "fashion_mnist": "Fashion-MNIST"}
PROTOCOL_TITLES = {"detection": "", "linear": "linear", "linear_cached": "linear (cached features)",
                   "linear_adam": "linear (Adam)", "knn": "kNN", "finetune": "fine-tuned", "memory": ""}
PAPER_ENCODERS = ("ResNet-50", "ShuffleNet v2-50", "PResNet-50")  # first in the order of rows
ROUNDING = 0.1  # points that a difference of rounded values may be off the rounded difference
Group = tuple[str, str]  # key of the method, and setting as JSON


@dataclass(frozen=True)
class Baseline:
    """What others are compared with: a label, and the keys of the methods that it names."""

    label: str
    keys: frozenset[str]


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        dataset: name of the data set.
        protocol: name of the protocol.
        metric: what was measured.
        stage: after which stage of the encoder; None for the last one, and where there are no stages.
        options: the protocol with its options as JSON; None where there are no results yet.
        hint: what distinguishes it from others of the same names.
        paper: whether it has the published numbers.
    """

    dataset: str
    protocol: str
    metric: str
    stage: str | None = None
    options: str | None = None
    hint: str = ""
    paper: bool = False

    @property
    def title(self) -> str:
        """Data set and protocol, for readers."""
        dataset = DATASET_TITLES.get(self.dataset, self.dataset)
        protocol = PROTOCOL_TITLES.get(self.protocol, self.protocol)
        return " ".join(filter(None, [dataset, protocol, self.hint and f"({self.hint})"]))

    @property
    def heading(self) -> str:
        """Metric and stage, for readers."""
        metric = METRIC_TITLES.get(self.metric, self.metric)
        return f"{metric}{f' {self.stage}' if self.stage else ''}{', paper' if self.paper else ''}"


@dataclass(frozen=True)
class Cell:
    """What the repetitions of a row average to in a column.

    Attributes:
        mean: None without values.
        std: sample standard deviation; None for fewer than two values.
        delta: difference to the baseline's mean; None where there is none, or it is averaged over other splits.
        n: values averaged; None of published numbers.
        of: repetitions requested.
        splits: those averaged.
        values: of every repetition requested; None of those without one.
    """

    mean: float | None
    std: float | None = None
    delta: float | None = None
    n: int | None = None
    of: int | None = None
    splits: tuple[float, ...] = ()
    values: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row: the cells that name it, its numbers by column, and as plain data the method and setting that it is of."""

    labels: tuple[str, ...]
    cells: Mapping[Column, Cell]
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table, ready to be written.

    Attributes:
        title: what it shows.
        label_titles: titles of the columns that name a row.
        columns: the others.
        rows: in order.
        notes: what its reader should know.
    """

    title: str
    label_titles: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Line:
    """A row before its numbers: labels, the group that it is of by data set (None: all), and published values."""

    labels: tuple[str, ...]
    groups: Mapping[str | None, Group | None]
    encoder: str = ""
    epochs: str = ""
    hint: str = ""
    baseline: Baseline | None = None
    published: Sequence[Any] = ()

    def group(self, dataset: str) -> Group | None:
        return self.groups.get(dataset, self.groups.get(None))


def _any_frozen_stages(column: Column) -> tuple[Column, int | None]:
    """A column without what its protocol says of frozen stages, and that."""
    options = json.loads(column.options)
    frozen = options.pop("frozen_stages", None)
    return replace(column, options=canonical(options)), frozen


class Results:
    """Averages of the rows of records by group and column.

    Args:
        frame: of :func:`pretrain.results.store.read_rows`.
        records: that it was made of.
        metrics: those wanted; all where there are none of these.
        every_stage: whether every stage has a column, instead of the last one alone.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        records: Iterable[Record],
        metrics: Iterable[str] = MAIN_METRICS,
        every_stage: bool = False,
    ) -> None:
        self.methods = {record.method["key"]: record.method for record in records}
        frame = frame[frame["class_name"].isna()]
        wanted = frame["metric"].isin(list(metrics))
        frame = frame[wanted] if wanted.any() else frame
        frame = frame[frame["last_stage"].astype(bool)] if not every_stage else frame  # an empty column has no type
        self.cells: dict[tuple[Group, Column], Cell] = {}
        self.frozen: dict[tuple[Group, Column], int | None] = {}  # stages of a detector's backbone
        names = ["method_key", "setting", "dataset", "protocol", "metric", "stage", "protocol_options"]
        for values, rows in frame.groupby(names, dropna=False, sort=False):
            key, setting, dataset, protocol, metric, stage, options = values
            shown_stage = stage if every_stage and isinstance(stage, str) else None
            self.cells[(key, setting), Column(dataset, protocol, metric, shown_stage, options)] = _averaged(rows)
        self._merge_frozen_stages()

    def _merge_frozen_stages(self) -> None:
        """Puts random weights, which have nothing to freeze, into the column of what froze stages, if that is one column."""
        whole: dict[Column, set[Column]] = {}  # columns of pretrained weights by their description without frozen stages
        for group, column in self.cells:
            if self.methods[group[0]].get("source") != RANDOM:
                whole.setdefault(_any_frozen_stages(column)[0], set()).add(column)
        cells, self.cells = self.cells, {}
        for (group, column), cell in cells.items():
            others = whole.get(_any_frozen_stages(column)[0], set())
            alone = self.methods[group[0]].get("source") == RANDOM and column not in others and len(others) == 1
            place = (group, next(iter(others)) if alone else column)
            if place in cells and alone:
                place = (group, column)
            self.cells[place] = cell
            self.frozen[place] = _any_frozen_stages(column)[1]

    @property
    def groups(self) -> list[Group]:
        """Methods with their settings, in the order of rows."""
        return sorted({group for group, _ in self.cells}, key=self._order)

    @property
    def columns(self) -> list[Column]:
        """Columns in order, those of equal names distinguished by their protocols."""
        found = list(dict.fromkeys(column for _, column in self.cells))
        hinted = []
        for column in sorted(found, key=_column_order(found)):
            alike = {other.options for other in found if replace(other, options=None) == replace(column, options=None)}
            hints = differences(json.loads(column.options), map(json.loads, alike)) if len(alike) > 1 else {}
            hinted.append(replace(column, hint=in_words(hints)))
        return hinted

    def cell(self, group: Group | None, column: Column) -> Cell | None:
        """The average of a group in a column; None without results."""
        return None if group is None else self.cells.get((group, replace(column, hint="")))

    def has(self, group: Group, dataset: str | None) -> bool:
        """Whether a group has results on a data set, or on any."""
        return any(other == group and dataset in (None, column.dataset) for other, column in self.cells)

    def name(self, group: Group) -> str:
        """What messages call a group: its method, and what distinguishes it from others of that method."""
        labels = unique_labels(self.methods[key] for key, _ in self.groups)
        alike = [other for other in self.groups if other[0] == group[0]]
        hints = differences(self.setting(group), map(self.setting, alike)) if len(alike) > 1 else {}
        return labels[group[0]] + (f" ({in_words(hints)})" if hints else "")

    def setting(self, group: Group) -> dict[str, Any]:
        """The setting of a group."""
        return json.loads(group[1])

    def baseline_of(self, group: Group, baseline: Baseline, column: Column) -> Group | None:
        """The group that one is compared with: of the baseline, the same encoder and epochs, with the fewest differences."""
        method, setting = self.methods[group[0]], self.setting(group)
        if group[0] in baseline.keys or ("source" in method and method["source"] != "file"):
            return None
        found = []
        for other in self.groups:
            theirs = self.setting(other)
            comparable = theirs.get("encoder") == setting.get("encoder") and (
                "epochs" not in setting or "epochs" not in theirs or epochs_label(theirs) == epochs_label(setting))
            if other[0] in baseline.keys and comparable and self.cell(other, column):
                found.append(other)
        return min(found, key=lambda other: len(self.differing(group, other)), default=None)

    def baseline(self, label: str | None) -> Baseline:
        """The methods that a label names, or without one :data:`BASELINES`: the first that has results.

        Raises:
            ValueError: no method has that label; the message lists those there are.
        """
        if label is None:
            return next((found for name in BASELINES if (found := self.standard_baseline(name)).keys),
                        Baseline(BASELINES[0], frozenset()))
        labels = unique_labels(self.methods[key] for key, _ in self.groups)
        keys = [key for key, unique in labels.items() if label in (unique, self.methods[key]["label"])]
        _check_known("baseline", [label], [label] if keys else labels.values())
        return Baseline(label, frozenset(keys))

    def standard_baseline(self, label: str) -> Baseline:
        """The methods whose own label this is; none that was only given that name."""
        return Baseline(label, frozenset(key for key, _ in self.groups if self.methods[key]["label"] == label
                                         and self.methods[key].get("name") is None))

    def differing(self, group: Group, other: Group) -> dict[str, tuple[Any, Any]]:
        """What of setting and objective two groups differ in, with both values; of other objectives only their types."""
        objectives = [self.methods[key].get("objective") or {} for key, _ in (group, other)]
        if len({objective.get("type") for objective in objectives}) > 1:
            objectives = [objective.get("type") for objective in objectives]
        mine, theirs = ({"setting": self.setting(each), "objective": objective}
                        for each, objective in zip((group, other), objectives, strict=True))
        names = differences(mine, [theirs])
        return {name: (value, differences(theirs, [mine]).get(name)) for name, value in names.items()}

    def _order(self, group: Group) -> tuple:
        setting = self.setting(group)
        encoder = encoder_label(setting["encoder"]) if "encoder" in setting else ""
        place = PAPER_ENCODERS.index(encoder) if encoder in PAPER_ENCODERS else len(PAPER_ENCODERS)
        return (place, encoder, setting.get("epochs") or 0, setting.get("epochs_done") or 0,
                shown_method(self.methods[group[0]]).order, group)


def results_table(
    paths: Iterable[str | os.PathLike[str]],
    name: str | None = None,
    *,
    paper: bool = False,
    baseline: str | None = None,
    metrics: Sequence[str] | None = None,
    every_stage: bool = False,
    per_class: bool = False,
) -> tuple[Table, list[str]]:
    """A table of all results below some folders.

    Args:
        paths: records, or folders above several.
        name: of a table of the papers, see :func:`paper_layouts`; None for :func:`general_table`.
        paper: whether the published numbers stand beside ours.
        baseline: label of the method that the others are compared with; None for the usual one.
        metrics: those wanted; None for AP and top-1 accuracy.
        every_stage: whether evaluations have a column for each stage.
        per_class: whether to show AP by class instead.

    Returns:
        The table, and warnings that name what could not be used.

    Raises:
        ValueError: there are no results, a name is unknown, or options exclude each other.
    """
    if paper and name is None:
        raise ValueError("the papers' numbers have the papers' layouts: --paper needs --table, such as --table loco-3")
    for option, value in (("--table", name), ("--metrics", metrics), ("--baseline", baseline)):
        if per_class and value is not None:
            raise ValueError(f"--per-class and {option} exclude each other; leave one out")
    frame, records, warnings = read_rows(paths)
    if frame.empty:
        raise ValueError(f"the {len(records)} records found hold no measurements yet; wait for a run to finish")
    if per_class:
        return per_class_table(frame, records), warnings
    if metrics is not None:
        _check_known("metric", metrics, frame["metric"])
    if name is None:
        return general_table(Results(frame, records, metrics or MAIN_METRICS, every_stage), baseline), warnings
    _check_known("table", [name], paper_layouts())
    of_table = [column["metric"] for column in paper_layouts()[name]["columns"]]
    results = Results(frame, records, metrics or [*MAIN_METRICS, *of_table], every_stage)
    return paper_table(results, name, paper, baseline), warnings


def general_table(results: Results, baseline: str | None = None) -> Table:
    """All results: a row for each method and setting, a column for each data set, protocol and metric.

    Args:
        results: averages.
        baseline: label of the method that the others are compared with; None for the first of :data:`BASELINES`.

    Raises:
        ValueError: there is no such method; the message lists those there are.
    """
    chosen = results.baseline(baseline)
    labels = unique_labels(results.methods[key] for key, _ in results.groups)
    lines = [_line(results, (labels[group[0]],), group, chosen) for group in results.groups]
    return _filled("All results", ["Method"], lines, results.columns, results)


def paper_table(results: Results, name: str, paper: bool = False, baseline: str | None = None) -> Table:
    """A table of one of the papers, with further rows and columns for what else there are results of.

    Args:
        results: averages.
        name: a key of :func:`paper_layouts`, such as ``loco-3``.
        paper: whether the published numbers stand beside ours, and rows that the paper quotes are shown.
        baseline: as for :func:`general_table`; None for the paper's.

    Raises:
        ValueError: there is no such table or method.
    """
    layouts = paper_layouts()
    layout = layouts[name]
    chosen = None if baseline is None else results.baseline(baseline)
    standard = layout["baseline"] and results.standard_baseline(_method(layout["baseline"])["label"])
    rows = [row for row in layout["rows"] if paper or "method" in row or "methods" in row]
    exact = [_lines_of(row, layout, results, standard, chosen) for row in rows]
    placed = {group for found in exact for line in found for group in line.groups.values() if group}
    order = {group: place for place, group in enumerate(results.groups)}
    layout_columns = [Column(c["dataset"], c["protocol"], c["metric"]) for c in layout["columns"] if not c.get("paper_only")]
    shown = [column for column in results.columns if _belongs(column, name, layouts)]
    visible = {group for group in results.groups if any(results.cell(group, column) for column in shown)} - placed
    further = _other_settings(rows, results, visible, standard, chosen)
    visible -= {line.groups[None] for line in further}
    labels = unique_labels(results.methods[key] for key, _ in results.groups)
    blank = ("",) * (len(layout["label_titles"]) - 1)
    further += [_line(results, (labels[group[0]], *blank), group, chosen or standard) for group in visible]
    further.sort(key=lambda line: order[next(iter(line.groups.values()))])
    columns = _layout_columns(layout, layout_columns, shown, paper)
    all_lines = [*(line for found in exact for line in found), *further]
    table = _filled(layout["title"], layout["label_titles"], all_lines, columns, results, layout if paper else None)
    left_out = sorted({column.title for column in results.columns} - {column.title for column in shown})
    notes = [f"not in this table: results on {', '.join(left_out)}"] if left_out else []
    return replace(table, notes=[*table.notes, *notes, *_protocol_notes(layout, shown),
                                 *((*_contradictions(layout), *layout.get("notes", ())) if paper else ())])


def per_class_table(frame: pd.DataFrame, records: Iterable[Record]) -> Table:
    """AP of every class: a row per class, a column for each method, setting, data set and task.

    Raises:
        ValueError: there are no results by class.
    """
    of_classes = frame[frame["class_name"].notna()]
    if of_classes.empty:
        raise ValueError("there is no AP per class among the results; run tools/train_det.py first")
    metrics = of_classes["metric"].unique()
    whole = Results(frame, records, metrics)  # which knows of unfinished splits, too
    by_class = {name: Results(rows.assign(class_name=None), records, metrics)
                for name, rows in of_classes.groupby("class_name", sort=False)}
    columns, rows = [], {name: {} for name in by_class}
    for group in whole.groups:
        for column in whole.columns:
            cell = whole.cell(group, column)
            found = {name: each for name, results in by_class.items() if (each := results.cell(group, column))}
            if cell and found:
                titled = replace(column, hint=", ".join(filter(None, [whole.name(group), column.hint])))
                columns.append(titled)
                for name, each in found.items():
                    rows[name][titled] = replace(each, of=max(each.of, cell.of))
    return Table("AP by class", ["Class"], columns, [Row((name,), cells) for name, cells in rows.items()])


@lru_cache
def paper_layouts() -> dict[str, dict[str, Any]]:
    """The tables of the papers by name: ``loco-1``, ..., ``subsampling-2``."""
    folder = resources.files("pretrain.results") / "papers"
    return {f"{paper}-{number}": table for paper in ("loco", "subsampling")
            for number, table in json.loads((folder / f"{paper}.json").read_text(encoding="utf-8"))["tables"].items()}


def _method(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A method as the papers' tables name it."""
    return foreign_method(spec["source"]) if "source" in spec else standard_method(**spec)


def _averaged(rows: pd.DataFrame) -> Cell:
    known = values_by_repetition(rows.dropna(subset="value"))
    values = known["value"].tolist()
    of = len(rows.drop_duplicates(["seed", "split"]))
    splits = tuple(sorted(known["split"].dropna().unique()))
    mean = statistics.fmean(values) if values else None
    std = statistics.stdev(values) if len(values) > 1 else None
    each = tuple(None if math.isnan(value) else value for value in values_by_repetition(rows)["value"])
    return Cell(mean, std, None, len(values), of, splits, each)


def _line(results: Results, labels: tuple[str, ...], group: Group, baseline: Baseline | None) -> _Line:
    setting = results.setting(group)
    encoder = encoder_label(setting["encoder"]) if "encoder" in setting else ""
    return _Line(labels, {None: group}, encoder, epochs_label(setting), baseline=baseline)


def _lines_of(
    row: Mapping[str, Any], layout: Mapping[str, Any], results: Results, standard: Baseline | None, chosen: Baseline | None
) -> list[_Line]:
    """The lines of a paper's row: of the groups with its method, encoder and epochs; without any, one of no group."""
    found, encoders, lengths = {}, [], []
    for dataset, spec in _methods_of(row).items():
        wanted = layout["settings"][dataset] if dataset else row
        encoders.append(encoder_label(wanted["encoder"]))
        lengths.append(str(wanted.get("epochs") or ""))
        found[dataset] = [
            group for group in results.groups
            if group[0] == spec["key"] and results.setting(group)["encoder"] == encoder_spec(wanted["encoder"])
            and epochs_label(results.setting(group)) == lengths[-1] and results.has(group, dataset)
        ]
    encoder, epochs = (names[0] if len(set(names)) == 1 else "" for names in (encoders, lengths))
    if not found:  # only quoted
        encoder, epochs = encoder_label(row["encoder"]), str(row.get("epochs") or "")
    instances = list(zip_longest(*found.values())) or [(None,) * len(found)]
    return [_Line(tuple(row["labels"]), dict(zip(found, groups, strict=True)), encoder, epochs, "",
                  _baseline_of(row, results, standard, chosen), row["values"]) for groups in instances]


def _other_settings(
    rows: Sequence[Mapping[str, Any]], results: Results, groups: set[Group], standard: Baseline | None,
    chosen: Baseline | None,
) -> list[_Line]:
    """Lines of the papers' methods with another encoder or other epochs, under the labels of the first row that they fit."""
    lines: dict[Group, _Line] = {}
    for row in rows:
        for dataset, spec in _methods_of(row).items():
            for group in groups:
                if group[0] == spec["key"] and group not in lines and results.has(group, dataset):
                    lines[group] = _line(results, tuple(row["labels"]), group,
                                         _baseline_of(row, results, standard, chosen))
    return list(lines.values())


def _methods_of(row: Mapping[str, Any]) -> dict[str | None, dict[str, Any]]:
    """The methods of a paper's row by data set (None: all); none of a row that the paper only quotes."""
    methods = row.get("methods") or ({None: row["method"]} if "method" in row else {})
    return {dataset: _method(spec) for dataset, spec in methods.items()}


def _baseline_of(
    row: Mapping[str, Any], results: Results, standard: Baseline | None, chosen: Baseline | None
) -> Baseline | None:
    return chosen or (results.standard_baseline(_method(row["baseline"])["label"]) if "baseline" in row else standard)


def _belongs(column: Column, name: str, layouts: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a column stands in a paper's table: AP in tables of AP, and nothing that another of them has columns for."""
    place = (column.dataset, column.protocol)
    places = {other: {(c["dataset"], c["protocol"]) for c in layout["columns"]} for other, layout in layouts.items()}
    of_detection = any(protocol == DETECTION for _, protocol in places[name])
    others = [other for other in places if other.split("-")[0] == name.split("-")[0] and place in places[other]]
    return place in places[name] or ((column.protocol == DETECTION) == of_detection and not others)


def _layout_columns(
    layout: Mapping[str, Any], wanted: Sequence[Column], shown: Sequence[Column], paper: bool
) -> list[Column]:
    """The layout's columns, with and without results, the published ones behind them, and then all others."""
    columns: list[Column] = []
    for place, spec in enumerate(layout["columns"]):
        name = Column(spec["dataset"], spec["protocol"], spec["metric"])
        if name in wanted:
            alike = [c for c in shown if replace(c, stage=None, options=None, hint="") == name]
            columns += alike or [name]
        if paper and any(row["values"][place] is not None for row in layout["rows"]):
            columns.append(replace(name, paper=True))
    return [*columns, *(column for column in shown if column not in columns)]


def _filled(
    title: str, label_titles: Sequence[str], lines: Sequence[_Line], columns: Sequence[Column], results: Results,
    layout: Mapping[str, Any] | None = None,
) -> Table:
    """Fills in the numbers, and the notes below."""
    lines = _with_hints(lines, results)
    extra = [(name, values) for name, values in (("Encoder", [line.encoder for line in lines]),
                                                 ("Epochs", [line.epochs for line in lines]),
                                                 ("Setting", [line.hint for line in lines])) if _distinguishes(name, values)]
    rows, lacking = [], {}
    compared: dict[tuple[Group, Group], dict[str, None]] = {}  # with what is to be said of them
    for place, line in enumerate(lines):
        cells: dict[Column, Cell] = {}
        for column in columns:
            if column.paper:
                cell = _published(line, column, layout)
            else:
                cell = results.cell(line.group(column.dataset), column)
                if cell and cell.n and line.baseline:
                    cell = _compared(results, line, column, cell, compared, lacking)
            if cell is not None:
                cells[column] = cell
        group = next((group for group in line.groups.values() if group), None)
        identity = {} if group is None else {"method": results.methods[group[0]], "setting": results.setting(group)}
        rows.append(Row((*line.labels, *(values[place] for _, values in extra)), cells, identity))
    names = [name for name, _ in extra]
    return Table(title, [*label_titles, *names], columns, rows, [*_notes(results, columns, compared, lacking)])


def _compared(
    results: Results, line: _Line, column: Column, cell: Cell, compared: dict[tuple[Group, Group], dict[str, None]],
    lacking: dict[str, list[str]],
) -> Cell:
    group = line.group(column.dataset)
    base = results.baseline_of(group, line.baseline, column)
    if base is None:
        method = results.methods[group[0]]
        if group[0] not in line.baseline.keys and method.get("source", "file") == "file":
            lacking.setdefault(line.baseline.label, []).append(column.title)
        return cell
    other = results.cell(base, column)
    notes = compared.setdefault((group, base), {})
    mine, theirs = (results.frozen.get((each, replace(column, hint=""))) for each in (group, base))
    if mine != theirs:
        notes[f"{results.name(group)} on {column.title}: frozen_stages {mine} ({results.name(base)}: {theirs})"] = None
    return replace(cell, delta=cell.mean - other.mean) if other.n and other.splits == cell.splits else cell


def _notes(
    results: Results, columns: Sequence[Column], compared: Mapping[tuple[Group, Group], Iterable[str]],
    lacking: Mapping[str, Sequence[str]],
) -> Iterator[str]:
    for (group, base), of_pair in compared.items():
        mine, theirs = results.name(group), results.name(base)
        differing = results.differing(group, base)
        unknown = [name for each, name in ((group, mine), (base, theirs))
                   if results.methods[each[0]].get("source") == "file"]
        if unknown:
            yield f"{mine} and {theirs} cannot be compared in their settings: the pretraining of {unknown[0]} is not known"
        elif differing and "source" not in results.methods[base[0]]:
            pairs = ", ".join(f"{name} {value} ({theirs}: {other})" for name, (value, other) in differing.items())
            yield f"{mine} has other settings than {theirs}: {pairs}"
        yield from of_pair
    for baseline, titles in lacking.items():
        yield f"no run of {baseline} with the same encoder and epochs: no differences in {', '.join(dict.fromkeys(titles))}"
    unfinished = {(group, column.title): cell for group in results.groups for column in columns
                  if (cell := results.cell(group, column)) and cell.n < cell.of}
    for (group, title), cell in unfinished.items():
        yield f"{results.name(group)} on {title}: {cell.n} of {cell.of} repetitions have a value"


def _with_hints(lines: Sequence[_Line], results: Results) -> list[_Line]:
    """Lines with a hint at their settings where labels, encoder and epochs are those of another."""
    hinted = []
    for line in lines:
        alike = [other for other in lines
                 if (other.labels, other.encoder, other.epochs) == (line.labels, line.encoder, line.epochs)]
        groups = [next(iter(other.groups.values()), None) for other in alike]
        mine = next(iter(line.groups.values()), None)
        if len(alike) == 1 or None in groups:
            hinted.append(line)
            continue
        content = [{"objective": results.methods[group[0]].get("objective"), "setting": results.setting(group)}
                   for group in groups]
        hinted.append(replace(line, hint=in_words(differences(content[groups.index(mine)], content))))
    return hinted


def _distinguishes(name: str, values: Sequence[str]) -> bool:
    known = {value for value in values if value}
    return bool(known) if name == "Setting" else len(known) > 1 or any(" of " in value for value in known)


def _published(line: _Line, column: Column, layout: Mapping[str, Any]) -> Cell | None:
    place = [(c["dataset"], c["protocol"], c["metric"]) for c in layout["columns"]].index(
        (column.dataset, column.protocol, column.metric))
    value = line.published[place] if line.published else None
    if value is None:
        return None
    mean, std = value if isinstance(value, list) else (value, None)
    delta = None
    if layout.get("paper_deltas"):
        delta = published_delta(layout, _row_of(layout, line), place)
    return Cell(mean, std, delta)


def _row_of(layout: Mapping[str, Any], line: _Line) -> Mapping[str, Any]:
    return next(row for row in layout["rows"] if row["values"] is line.published)


def published_delta(layout: Mapping[str, Any], row: Mapping[str, Any], place: int) -> float | None:
    """The difference of a published value to the baseline's of the same encoder and epochs; None where there is none."""
    same = [other for other in layout["rows"] if other.get("method") == layout["baseline"]
            and (other["encoder"], other.get("epochs")) == (row["encoder"], row.get("epochs")) and other is not row]
    values = [each["values"][place] for each in (row, *same)]
    return values[0] - values[1] if len(values) > 1 and None not in values else None


def _contradictions(layout: Mapping[str, Any]) -> Iterator[str]:
    """Differences that the paper prints in brackets and that do not follow from its values."""
    for row in layout["rows"]:
        for place, printed in enumerate(row.get("printed_deltas", ())):
            computed = published_delta(layout, row, place)
            if printed is not None and computed is not None and abs(computed - printed) > ROUNDING + 1e-6:
                spec = layout["columns"][place]
                column = Column(spec["dataset"], spec["protocol"], spec["metric"])
                name = f"{row['labels'][0]}, {encoder_label(row['encoder'])}, {row['epochs']} epochs"
                yield (f"the paper prints ({printed:+.1f}) beside the {column.title} {column.heading} of {name}, but its "
                       f"values give {computed:+.1f}, which is shown")


def _protocol_notes(layout: Mapping[str, Any], columns: Sequence[Column]) -> Iterator[str]:
    """Where AP is not of the whole validation set."""
    for column in {replace(column, metric="", hint="") for column in columns}:
        found, wanted = json.loads(column.options).get("num_val_images"), layout.get("val_images", {}).get(column.dataset)
        if None not in (found, wanted) and found != wanted:
            yield f"not AP on the whole validation set of {column.dataset}, which has {wanted:,} images: {found:,}"


def _check_known(what: str, values: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for value in values:
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}; known are {', '.join(map(repr, known))}")


def _column_order(found: Sequence[Column]) -> Any:
    datasets, protocols, metrics = list(DATASET_TITLES), list(PROTOCOL_TITLES), list(METRIC_TITLES)
    stages = list(dict.fromkeys(column.stage for column in found))

    def place(name: str, order: Sequence[str]) -> tuple[int, str]:
        return (order.index(name) if name in order else len(order), name)

    def order(column: Column) -> tuple:
        return (place(column.dataset, datasets), place(column.protocol, protocols), column.options,
                stages.index(column.stage), place(column.metric, metrics))

    return order


def in_words(hints: Mapping[str, Any]) -> str:
    """Names and values in words, hashes shortened."""
    return ", ".join(f"{name}={str(value)[:8] + '…' if _is_hash(value) else value}" for name, value in hints.items())


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 32 and all(character in "0123456789abcdef" for character in value)
