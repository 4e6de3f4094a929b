"""Readout accuracies in the form of the LoCo paper's Tables 1, 4, 5 and 7, with the published ones beside ours.

Rows are the paper's, and every result goes to the row whose recipe its encoder was trained by. A cell is the mean ± standard
deviation over pretrainings that differ in their seeds alone and, in brackets, the difference to SimCLR's mean; several
readouts of one pretraining are averaged first. Results on other data, of another kind or protocol of readout, or of
pretrainings of other settings have columns of their own. Encoders from before the end of their schedule are told but never
averaged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pretrain.readout.averages import (
    LAST,
    NO_SCORE,
    STAGES,
    Score,
    all_stages,
    averaged,
    averaging_warnings,
    mean_accuracy,
    score_text,
)
from pretrain.readout.cells import Cells, fill_cells
from pretrain.readout.columns import Column, column_titles
from pretrain.readout.published import PaperRow, PaperTable, paper_table
from pretrain.readout.recipes import row_encoder
from pretrain.readout.runs import find_runs
from pretrain.readout.sheets import FORMATS, Group, Sheet, Text, check_choice, literal
from pretrain.tables import Notation, Report, epochs


@dataclass(frozen=True)
class FilledTable:
    """A table with our accuracies.

    Attributes:
        paper: the paper's table.
        rows: the paper's rows, those of other encoders, and, if asked for, those that are only quoted.
        columns: our columns with their titles.
        stages: stages shown of every column.
        scores: by row, column and stage; rows without results have none.
        with_paper: whether the published accuracies are shown.
    """

    paper: PaperTable
    rows: Sequence[PaperRow]
    columns: Mapping[Column, str]
    stages: Mapping[Column, Sequence[str]]
    scores: Mapping[tuple[PaperRow, Column, str], Score]
    with_paper: bool


def accuracy_report(
    paths: Iterable[str | os.PathLike[str]], number: int, paper: bool = False, fmt: str = "markdown", stages: str = LAST
) -> Report:
    """A table of the paper with the accuracies of all readout results in some folders.

    Args:
        paths: readout results, or folders above them: see :func:`~pretrain.readout.runs.find_runs`.
        number: the table: 1, 4, 5 or 7.
        paper: whether to show the published accuracies and the rows that are only quoted, too.
        fmt: a key of :data:`~pretrain.readout.sheets.FORMATS`: markdown, latex, csv or json.
        stages: a key of :data:`STAGES`.

    Returns:
        The table; its warnings tell every result that is in no row, and why, and what to know of the averages.

    Raises:
        ValueError: the table, format or stages are unknown, results are missing or damaged, or one is given twice.
    """
    table = paper_table(number)
    check_choice("format", fmt, FORMATS)
    check_choice("stage", stages, STAGES)
    runs, passed_over = find_runs(paths)
    cells = fill_cells(runs, table)
    filled = _filled_table(table, cells, paper, stages)
    return Report(FORMATS[fmt]([_sheet(filled)]), [*passed_over, *cells.unplaced, *_warnings(filled, cells)])


def _filled_table(table: PaperTable, cells: Cells, with_paper: bool, stages: str) -> FilledTable:
    rows = [row for row in cells.rows if with_paper or not row.quoted]
    columns = column_titles(cells.columns)
    shown = {column: _stages_of(cells, column) if stages == "all" else [LAST] for column in columns}
    keys = [(row, column, stage) for row, column in cells.runs for stage in shown[column]]
    means = {key: mean_accuracy(cells.runs[key[:2]], key[2]) for key in keys}
    scores = {}
    for row, column, stage in keys:
        base = means.get((_baseline(table, rows, row), column, stage))
        scores[row, column, stage] = averaged(cells.runs[row, column], stage, base)
    return FilledTable(table, rows, columns, shown, scores, with_paper)


def _stages_of(cells: Cells, column: Column) -> list[str]:
    return all_stages(run for (_, other), runs in cells.runs.items() if other == column for run in runs)


def _baseline(table: PaperTable, rows: Iterable[PaperRow], row: PaperRow) -> PaperRow | None:
    """The row that ``row`` is compared with: SimCLR on its encoder; None for that row itself."""
    same = (r for r in rows if r.config is not None and r.config == table.baseline and row_encoder(r) == row_encoder(row))
    base = next(same, None)
    return None if base == row else base


def _warnings(table: FilledTable, cells: Cells) -> list[str]:
    """What to know of the averages: encoders left out, what could not be compared, and columns without the baseline."""
    lines = averaging_warnings(cells.runs)
    for column, title in table.columns.items():
        lacking = {
            base for (row, other, _), score in table.scores.items()
            if other == column and score.mean is not None and score.delta is None
            and (base := _baseline(table.paper, table.rows, row)) is not None
        }
        lines += [f"no run of {', '.join(map(str, filter(None, base.labels)))} in the column {title}: no differences there"
                  for base in sorted(lacking, key=table.rows.index)]
    return lines


def _sheet(table: FilledTable) -> Sheet:
    groups = [Group(title, ["Acc." if stage == LAST else stage for stage in table.stages[column]])
              for column, title in table.columns.items()]
    return Sheet(
        name=f"Table {table.paper.number}",
        label_titles=table.paper.label_titles,
        groups=[*(groups or [Group("", ["Acc."])]), *_published_groups(table)],
        lines=[(list(map(_label, row.labels)), _cells(table, row)) for row in table.rows],
        numbers=table_rows(table),
        packages=("booktabs", "amssymb"),
    )


def _label(label: bool | str) -> Text:
    return _mark if label is True else literal(label or "")


def _mark(notation: Notation) -> str:
    return notation.check


def _missing(notation: Notation) -> str:
    return notation.missing


def _cells(table: FilledTable, row: PaperRow) -> list[Text]:
    ours = [partial(score_text, table.scores.get((row, column, stage)), column.epochs)
            for column in table.columns for stage in table.stages[column]]
    published: list[Text] = [partial(_published_score, row)] if table.with_paper else []
    if _shows_memory(table):
        published.append(_missing if row.memory_saving is None else literal(f"{row.memory_saving:g}"))
    return [*(ours or [_missing]), *published]


def _published_score(row: PaperRow, notation: Notation) -> str:
    return notation.score(row.accuracy) + _own_schedule(row)


def _own_schedule(row: PaperRow) -> str:
    """What tells that the column's number of epochs is not that of a row which the paper quotes."""
    if not row.quoted:
        return ""
    return " (own schedule)" if row.epochs is None else f" ({epochs(row.epochs)})"


def _shows_memory(table: FilledTable) -> bool:
    return table.with_paper and any(row.memory_saving is not None for row in table.rows)


def _published_groups(table: FilledTable) -> list[Group]:
    groups = [Group(f"paper, ImageNet linear, {epochs(table.paper.epochs)}", ["Acc."])] if table.with_paper else []
    return [*groups, Group("paper, memory saving ratio", ["Memory saving"])] if _shows_memory(table) else groups


def table_rows(table: FilledTable) -> list[dict[str, Any]]:
    """The numbers of a table; also its JSON format.

    Returns:
        A dict for each row, column and stage, in the table's order: the row's labels under their titles in snake case,
        ``column``, ``data_set``, ``kind``, ``epochs``, ``stage``, ``mean``, ``std``, ``delta``, ``runs``,
        ``incomplete_runs``, and, where the published accuracies are shown, ``paper``, ``paper_epochs`` and
        ``paper_memory_saving``. Accuracies in percent. None stands for what does not exist or the paper does not tell.
    """
    names = [title.lower().replace(" ", "_") for title in table.paper.label_titles]
    places = [(column, stage) for column in table.columns for stage in table.stages[column]] or [(None, LAST)]
    rows = []
    for row in table.rows:
        for column, stage in places:
            found = table.scores.get((row, column, stage)) or NO_SCORE
            entry: dict[str, Any] = dict(zip(names, row.labels, strict=True))
            entry |= {"column": table.columns.get(column), "data_set": None if column is None else column.data_set,
                      "kind": None if column is None else column.kind, "epochs": None if column is None else column.epochs,
                      "stage": stage, "mean": found.mean, "std": found.std, "delta": found.delta, "runs": found.runs,
                      "incomplete_runs": len(found.incomplete)}
            if table.with_paper:
                entry |= {"paper": row.accuracy, "paper_epochs": row.epochs if row.quoted else table.paper.epochs,
                          "paper_memory_saving": row.memory_saving}
            rows.append(entry)
    return rows
