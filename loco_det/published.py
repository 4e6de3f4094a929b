"""The detection tables of the LoCo paper (2 and 3) as they are printed: plain data.

Mask R-CNN's AP in points, COCO's average over IoU 0.5 to 0.95, of boxes and of masks. For Cityscapes the paper does not tell
whose; boxes are not evaluated by Cityscapes' own scripts, so that at least AP^bb is COCO's there, too. The differences to
SimCLR that are printed in brackets are kept to be checked, never shown: two of them are not what the values say
(:func:`contradictions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loco_det.ap_rows import BASELINE, RowKey
from loco_det.evaluation.results import TASKS

R50, SH50 = "resnet50", "shufflenet_v2_50"
SPLITS, MAX_VARIANCE = 5, 0.2  # of Table 3: "the variance is very small (< 0.2)" (section 5.3)
VAL_IMAGES = {"coco": 5_000, "cityscapes": 500, "coco10k": 5_000, "coco1k": 5_000}  # of val2017 and val
ROUNDING = 0.1  # what a difference of rounded values may differ from the rounded difference, in points


@dataclass(frozen=True)
class PublishedAP:
    """A cell: AP in points, and the difference to SimCLR that is printed beside it, if any."""

    value: float
    printed_delta: float | None = None


@dataclass(frozen=True)
class PublishedTable:
    """A table.

    Attributes:
        number: as in the paper.
        heading: title over the rows of pretrainings of equal length, with a place for their epochs.
        datasets: its column groups.
        names_encoder: whether rows name their encoder.
        cells: by row, in the paper's order, then data set and task.
    """

    number: int
    heading: str
    datasets: tuple[str, ...]
    names_encoder: bool
    cells: Mapping[RowKey, Mapping[tuple[str, str], PublishedAP]]

    def value(self, row: RowKey, dataset: str, task: str) -> float | None:
        """The AP of a cell; None where the paper has none."""
        cell = self.cells.get(row, {}).get((dataset, task))
        return None if cell is None else cell.value

    def delta(self, row: RowKey, dataset: str, task: str, baseline: str = BASELINE) -> float | None:
        """The difference of a cell's AP to the baseline's of the same encoder and epochs, computed from the values."""
        base = row.baseline(baseline)
        value, base_value = self.value(row, dataset, task), base and self.value(base, dataset, task)
        return None if value is None or base_value is None else value - base_value


@dataclass(frozen=True)
class Contradiction:
    """A difference in brackets that does not follow from the values.

    Attributes:
        row: of the cell.
        dataset: of the cell.
        task: of the cell.
        printed: what stands in brackets.
        computed: the difference of the values, one decimal.
    """

    row: RowKey
    dataset: str
    task: str
    printed: float
    computed: float


def contradictions(table: PublishedTable) -> list[Contradiction]:
    """Every difference that is printed in brackets and that rounding does not explain, in the paper's order."""
    found = []
    for row, cells in table.cells.items():
        for (dataset, task), cell in cells.items():
            computed = table.delta(row, dataset, task)
            if cell.printed_delta is None or computed is None:
                continue
            if abs(computed - cell.printed_delta) > ROUNDING + 1e-6:
                found.append(Contradiction(row, dataset, task, cell.printed_delta, round(computed, 1)))
    return found


Printed = float | tuple[float, float]  # a value, with the difference in brackets where there is one


def _row(datasets: Sequence[str], *printed: Printed) -> dict[tuple[str, str], PublishedAP]:
    """The cells of a row as they are printed from left to right: box and mask AP on every data set."""
    places = [(dataset, task) for dataset in datasets for task in TASKS]
    cells = [PublishedAP(*cell) if isinstance(cell, tuple) else PublishedAP(cell) for cell in printed]
    return dict(zip(places, cells, strict=True))


_FROZEN = ("coco", "cityscapes")
_FEW_LABELS = ("coco10k", "coco1k")

TABLE_2 = PublishedTable(
    number=2,
    heading="Backbone weights with {}",
    datasets=_FROZEN,
    names_encoder=True,
    cells={
        RowKey("supervised", R50, None): _row(_FROZEN, 33.9, 31.3, 33.2, 27.1),
        RowKey("simclr", R50, 100): _row(_FROZEN, 32.2, 29.9, 33.2, 28.6),
        RowKey("gim", R50, 100): _row(_FROZEN, (27.7, -4.5), (25.7, -4.2), (30.0, -3.2), (24.6, -4.0)),
        RowKey("loco", R50, 100): _row(_FROZEN, (32.6, +0.4), (30.1, +0.2), (33.2, +0.0), (28.4, -0.2)),
        RowKey("simclr", SH50, 100): _row(_FROZEN, 32.5, 30.1, 33.3, 28.0),
        RowKey("gim", SH50, 100): _row(_FROZEN, (27.3, -5.2), (25.4, -4.7), (29.1, -4.2), (23.9, -4.1)),
        RowKey("loco", SH50, 100): _row(_FROZEN, (31.8, -0.7), (29.4, -0.7), (33.1, -0.2), (27.7, -0.3)),
        RowKey("simclr", R50, 800): _row(_FROZEN, 34.8, 32.2, 34.8, 30.1),
        RowKey("gim", R50, 800): _row(_FROZEN, (29.3, -5.5), (27.0, -5.2), (30.7, -4.1), (26.0, -4.1)),
        RowKey("loco", R50, 800): _row(_FROZEN, (34.5, -0.3), (32.0, -0.2), (34.2, -0.6), (29.5, -0.6)),
        RowKey("simclr", SH50, 800): _row(_FROZEN, 33.4, 30.9, 33.9, 28.7),
        RowKey("gim", SH50, 800): _row(_FROZEN, (28.9, -4.5), (26.9, -4.0), (29.6, -4.3), (23.9, -4.8)),
        RowKey("loco", SH50, 800): _row(_FROZEN, (33.6, +0.2), (31.2, +0.3), (33.0, -0.9), (28.1, -0.6)),
    },
)

TABLE_3 = PublishedTable(
    number=3,
    heading="Pretrained weights with {}",
    datasets=_FEW_LABELS,
    names_encoder=False,
    cells={
        RowKey("random", R50, None): _row(_FEW_LABELS, 23.5, 22.0, 2.5, 2.5),
        RowKey("supervised", R50, None): _row(_FEW_LABELS, 26.0, 23.8, 10.4, 10.1),
        RowKey("simclr", R50, 100): _row(_FEW_LABELS, 25.6, 23.9, 11.3, 11.4),
        RowKey("gim", R50, 100): _row(_FEW_LABELS, (22.6, -3.0), (20.8, -3.1), (9.7, -1.6), (9.6, -1.8)),
        RowKey("loco", R50, 100): _row(_FEW_LABELS, (26.1, +0.3), (24.2, +0.5), (11.7, +0.4), (11.8, +0.4)),
        RowKey("simclr", R50, 800): _row(_FEW_LABELS, 27.2, 25.2, 13.9, 14.1),
        RowKey("gim", R50, 800): _row(_FEW_LABELS, (24.4, -2.8), (22.4, -2.8), (11.5, -2.4), (11.7, -2.4)),
        RowKey("loco", R50, 800): _row(_FEW_LABELS, (27.8, +0.6), (25.6, +0.4), (13.9, +0.0), (13.8, -0.3)),
    },
)

TABLES = {table.number: table for table in (TABLE_2, TABLE_3)}


def published_table(number: int) -> PublishedTable:
    """A detection table of the paper by its number.

    Raises:
        ValueError: the paper has no such table of AP.
    """
    if number not in TABLES:
        raise ValueError(f"there is no AP table {number}; known are {', '.join(map(str, TABLES))} (Tables 1, 4, 5 and 7 are "
                         "tools/report_linear.py's, Table 6 tools/complexity.py's)")
    return TABLES[number]
