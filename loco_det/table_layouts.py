"""Layouts of AP tables: the general one, and the LoCo paper's Tables 2 and 3 with further rows and columns of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loco_det.ap_rows import RowKey, RunGrid, shows_encoder, shows_epochs, spelled_epochs
from loco_det.published import TABLES, PublishedTable

METHOD_TITLES = {
    "random": "Random Init",
    "supervised": "Supervised",
    "simclr": "SimCLR",
    "gim": "GIM",
    "loco": "LoCo (Ours)",
}
ENCODER_TITLES = {"resnet50": "R-50", "shufflenet_v2_50": "Sh-50", "presnet50": "PResNet-50"}


@dataclass(frozen=True)
class Section:
    """Rows that follow each other.

    Attributes:
        heading: title over them, None for none.
        rows: the rows.
    """

    heading: str | None
    rows: Sequence[RowKey]


@dataclass(frozen=True)
class APTable:
    """A table of AP, ready to be written.

    Attributes:
        grid: the runs that it shows.
        label_titles: titles of the columns that name a row.
        labels: the cells that name it, by row; None where there is nothing to name.
        sections: its rows, in order.
        columns: the tasks shown of every data set, in order.
        published: the paper's table beside ours; None for ours alone.
        every_cell: whether cells without a run are part of its numbers, too.
    """

    grid: RunGrid
    label_titles: Sequence[str]
    labels: Mapping[RowKey, Sequence[str | None]]
    sections: Sequence[Section]
    columns: Mapping[str, Sequence[str]]
    published: PublishedTable | None = None
    every_cell: bool = False

    @property
    def rows(self) -> list[RowKey]:
        """All rows, in order."""
        return [row for section in self.sections for row in section.rows]


def general_table(grid: RunGrid) -> APTable:
    """Every run by its own names; encoder and epochs are named only where they differ."""
    rows = grid.rows
    titles, labels = ["Method"], {row: [row.method] for row in rows}
    if shows_encoder(rows):
        titles.append("Encoder")
        labels = {row: [*names, row.encoder] for row, names in labels.items()}
    if shows_epochs(rows):
        titles.append("Epochs")
        labels = {row: [*names, None if row.epochs is None else str(row.epochs)] for row, names in labels.items()}
    return APTable(grid, titles, labels, [Section(None, rows)], _columns(grid, grid.datasets))


def paper_layout(grid: RunGrid, table: PublishedTable, with_paper: bool) -> tuple[APTable, list[str]]:
    """The layout of a table of the paper.

    Its rows and columns are there with and without runs. Other methods, encoders and epochs have rows after the paper's,
    and data sets that are in neither of the paper's tables have columns after the paper's.

    Args:
        grid: runs, of any data set.
        table: the paper's table.
        with_paper: whether the published numbers stand beside ours.

    Returns:
        The table, and a line for each data set whose runs have no place in it.
    """
    elsewhere = {dataset for other in TABLES.values() for dataset in other.datasets} - set(table.datasets)
    shown = RunGrid({key: run for key, run in grid.runs.items() if key[1] not in elsewhere}, grid.baseline)
    left_out = Counter(dataset for _, dataset in grid.runs if dataset in elsewhere)
    notes = [f"not in Table {table.number}: {count} {'run' if count == 1 else 'runs'} on {dataset}"
             for dataset, count in left_out.items()]
    rows = list(dict.fromkeys([*table.cells, *shown.rows]))
    names_encoder = table.names_encoder or shows_encoder(rows)
    labels = {row: [METHOD_TITLES.get(row.method, row.method), ENCODER_TITLES.get(row.encoder, row.encoder)] for row in rows}
    return APTable(
        grid=shown,
        label_titles=["Method", "Arch"] if names_encoder else ["Method"],
        labels=labels if names_encoder else {row: names[:1] for row, names in labels.items()},
        sections=_sections(rows, table),
        columns=_columns(shown, list(dict.fromkeys([*table.datasets, *shown.datasets]))),
        published=table if with_paper else None,
        every_cell=True,
    ), notes


def _sections(rows: Sequence[RowKey], table: PublishedTable) -> list[Section]:
    """Rows without a schedule first, then those of every length of pretraining, the paper's first among each other."""
    unscheduled = [row for row in rows if not row.scheduled]
    lengths = {row.epochs for row in rows if row.scheduled}
    sections = [Section(None, unscheduled)]
    for length in sorted(lengths, key=lambda epochs: (epochs is None, epochs or 0)):
        alike = [row for row in rows if row.scheduled and row.epochs == length]
        sections.append(Section(table.heading.format(spelled_epochs(length)), alike))
    return sections


def _columns(grid: RunGrid, datasets: Sequence[str]) -> dict[str, Sequence[str]]:
    return {dataset: grid.tasks(dataset) for dataset in datasets}
