"""The cells of a table: which results stand in which row, and in which column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pretrain.readout.averages import check_distinct, last_stage
from pretrain.readout.columns import Column, column_order, flat
from pretrain.readout.published import PaperRow, PaperTable, method_rows
from pretrain.readout.recipes import architecture, recipe_of_record, row_encoder, row_recipe
from pretrain.readout.runs import ReadoutRun


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
        return sorted({column for _, column in self.runs}, key=column_order)


def fill_cells(runs: Sequence[ReadoutRun], table: PaperTable) -> Cells:
    """Puts every result into the rows that are its recipe, which on the paper's encoders is one at most.

    Encoders without pretraining have no schedule: they stand in every column of their data set and readout.

    Raises:
        ValueError: a result is given twice; names both files.
    """
    check_distinct(runs)
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
    last = last_stage(run)
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
    pretraining = None if run.settings is None else flat(run.settings)
    return Column(run.data_set, run.kind, run.epochs, other, flat(run.setting), pretraining)
