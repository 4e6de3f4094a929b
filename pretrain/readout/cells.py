"""The cells of a table: which results stand in which row, and in which column."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pretrain.readout.published import PaperRow, PaperTable, method_rows
from pretrain.readout.recipes import architecture, encoder_stages, recipe_of_record, row_encoder, row_recipe
from pretrain.readout.runs import KINDS, ReadoutRun
from pretrain.tables import epochs


@dataclass(frozen=True)
class Column:
    """What results must have in common to be averaged, beside their row.

    Attributes:
        data_set: name of the data set.
        kind: a key of :data:`~pretrain.readout.runs.KINDS`.
        epochs: epochs of the pretraining's whole schedule; None where only encoders without pretraining were read out.
        architecture: the encoder, where it is not the one of the paper's row.
        setting: data and protocol of the readout as JSON, see :func:`_flat`.
        pretraining: the pretraining's settings in the same form; None where its record is from before they were recorded,
            and without pretraining.
    """

    data_set: str
    kind: str
    epochs: int | None
    architecture: str | None
    setting: str
    pretraining: str | None


@dataclass(frozen=True)
class Cells:
    """All results in their places.

    Attributes:
        rows: the table's rows, those of other encoders included, in order.
        runs: results by row and column, in the order in which they were given.
        unplaced: one line for each result that is in no row, with the reason.
    """

    rows: Sequence[PaperRow]
    runs: Mapping[tuple[PaperRow, Column], list[ReadoutRun]]
    unplaced: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[Column]:
        """The columns that have results, by data set, kind, epochs and settings."""
        return sorted({column for _, column in self.runs}, key=_column_order)


def fill_cells(runs: Sequence[ReadoutRun], table: PaperTable) -> Cells:
    """Puts every result into the rows that are its recipe, which on the paper's encoders is one at most.

    Encoders without pretraining have no schedule: they stand in every column of their data set and readout.

    Raises:
        ValueError: a result is given twice; names both files.
    """
    _check_distinct(runs)
    rows = _rows_with_other_encoders(table, runs)
    placed: list[tuple[PaperRow, ReadoutRun, Column]] = []
    unplaced = []
    for run in runs:
        try:
            placed += [(row, run, _column_of(run, row)) for row in _rows_of(run, rows, table)]
        except ValueError as error:
            unplaced.append(f"{run.source} is in no row of Table {table.number}: {error}")
    scheduled = {column for _, run, column in placed if run.record}
    cells: dict[tuple[PaperRow, Column], list[ReadoutRun]] = defaultdict(list)
    for row, run, column in placed:
        alike = [c for c in scheduled if (c.data_set, c.kind, c.setting) == (column.data_set, column.kind, column.setting)]
        for target in [column] if run.record or not alike else alike:
            cells[row, target].append(run)
    encoders = {row_encoder(row) for row, _ in cells}
    return Cells([row for row in rows if row in table.rows or row_encoder(row) in encoders], dict(cells), unplaced)


def column_titles(columns: Sequence[Column]) -> dict[Column, str]:
    """A title for each column; what it must tell to differ from the others is part of it."""
    plain = {column: _plain_title(column) for column in columns}
    titles = {}
    for column, title in plain.items():
        alike = [other for other in columns if plain[other] == title]
        readout = _differing(column.setting, {other.setting for other in alike})
        recorded = {other.pretraining for other in alike if other.pretraining is not None}
        if column.pretraining is not None:
            pretraining = _differing(column.pretraining, recorded)
        else:
            pretraining = "settings not recorded" if recorded else ""
        titles[column] = ", ".join(filter(None, [title, readout, pretraining and f"pretraining: {pretraining}"]))
    return titles


def _differing(settings: str, others: Iterable[str]) -> str:
    """What of its settings a column must tell to differ from others, as ``key=value, ...``."""
    mine, rest = json.loads(settings), [json.loads(other) for other in others]
    keys = sorted(key for key in set().union(*rest) if len({json.dumps(other.get(key)) for other in rest}) > 1)
    return ", ".join(f"{_short(key, keys)}={_spelled(mine[key])}" for key in keys if key in mine)


def _short(key: str, keys: Sequence[str]) -> str:
    """The shortest ending of a dotted name that is clear among others; those of elements of lists are told whole."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        name = ".".join(parts[-length:])
        if name != "type" and not any(map(str.isdigit, parts)) and sum(f".{k}".endswith(f".{name}") for k in keys) == 1:
            return name
    return key


def _spelled(value: Any) -> str:
    return f"{value[:8]}…" if isinstance(value, str) and re.fullmatch("[0-9a-f]{32,}", value) else str(value)  # a hash


def _flat(settings: Mapping[str, Any]) -> str:
    """Nested settings as a JSON object of their leaves by dotted names; None is as good as left out."""
    return json.dumps({name: value for name, value in _leaves(settings) if value is not None}, sort_keys=True)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping | list):
        for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(child, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _rows_with_other_encoders(table: PaperTable, runs: Iterable[ReadoutRun]) -> list[PaperRow]:
    """The table's rows, and further ones of the methods for every encoder that the paper does not have."""
    rows = list(table.rows)
    if table.other_encoders == "rows":
        known = {row_encoder(row) for row in rows}
        found = {spec for run in runs if (spec := _encoder_or_none(run)) is not None} - known
        for spec in sorted(found, key=lambda spec: (architecture(spec), spec)):
            rows += method_rows(spec, architecture(spec))
    return rows


def _rows_of(run: ReadoutRun, rows: Iterable[PaperRow], table: PaperTable) -> list[PaperRow]:
    """The rows that a result belongs to.

    Raises:
        ValueError: there is none; says why.
    """
    spec = run.encoder_spec
    last = list(encoder_stages(spec))[-1]
    if last not in run.accuracies:
        raise ValueError(f"it has no accuracy after the encoder's last stage, {last}")
    if not run.record:
        if run.initialisation is None:
            raise ValueError("its encoder has no pretraining record, and is neither random nor known as supervised")
        found = [row for row in rows if (row.initialisation, row_encoder(row)) == (run.initialisation, spec)]
        if not found:
            raise ValueError(f"the table has no {run.initialisation} {architecture(spec)}")
        return found
    recipe = recipe_of_record(run.record)
    other = spec if table.other_encoders == "columns" else None
    found = [row for row in rows if row_recipe(row, other) == recipe]
    if not found:
        raise ValueError(f"no row has {recipe}")
    return found


def _encoder_or_none(run: ReadoutRun) -> str | None:
    try:
        return run.encoder_spec
    except ValueError:  # told where the result's row is looked for
        return None


def _column_of(run: ReadoutRun, row: PaperRow) -> Column:
    other = architecture(run.encoder_spec) if run.encoder_spec != row_encoder(row) else None
    pretraining = None if run.settings is None else _flat(run.settings)
    return Column(run.data_set, run.kind, run.epochs, other, _flat(run.setting), pretraining)


def _check_distinct(runs: Iterable[ReadoutRun]) -> None:
    seen: dict[str, ReadoutRun] = {}
    for run in runs:
        other = seen.setdefault(run.identity, run)
        if other is not run:
            raise ValueError(f"two results of the same readout: {other.source} and {run.source}; leave one out")


def _column_order(column: Column) -> tuple:
    kind = list(KINDS).index(column.kind)
    return (column.data_set, kind, column.architecture or "", column.epochs or 0, column.setting, column.pretraining or "")


def _plain_title(column: Column) -> str:
    parts = [f"{column.data_set} {KINDS[column.kind]}", column.architecture]
    return ", ".join(filter(None, [*parts, None if column.epochs is None else epochs(column.epochs)]))
