"""The published detection tables: what stands in the paper's text, and which of its differences are wrong."""

from __future__ import annotations

import re

import pytest

from loco_det.ap_rows import RowKey
from loco_det.evaluation.results import TASKS
from loco_det.published import TABLE_2, TABLE_3, TABLES, PublishedTable, contradictions, published_table

# The paper's text as a machine read it, row by row; points that it took for spaces are left so.
TEXT_2 = """
Supervised	R-50	33.9	31.3	33.2	27.1
100 Epochs
SimCLR GIM Ours	R-50 R-50 R-50	32.2 27.7 (-4.5) 32.6 (+0.4)	29.9 25.7 (-4.2) 30.1 (+0.2)	33.2 30.0 (-3.2) 33.2 (+0.0)	28.6 24.6 (-4.0) 28.4 (-0.2)
SimCLR	Sh-50	32.5	30.1	33.3	28.0
GIM Ours	Sh-50 Sh-50	27.3 (-5.2) 31.8 (-0.7)	25.4 (-4.7) 29.4 (-0.7)	29.1 (-4.2) 33.1 (-0.2)	23.9 (-4.1) 27.7 (-0.3)
800 Epochs
SimCLR GIM Ours	R-50 R-50 R-50	34.8 29.3 (-5.5) 34.5 (-0.3)	32.2 27.0 (-5.2) 32.0 (-0.2)	34.8 30.7 (-4.1) 34.2 (-0.6)	30.1 26.0 (-4.1) 29.5 (-0.6)
SimCLR GIM Ours	Sh-50 Sh-50 Sh-50	33.4 28.9 (-4.5) 33.6 (+0.2)	30.9 26.9 (-4.0) 31 2 (+0 3)	33.9 29.6 (-4.3) 33.0 (-0.9)	28.7 23.9 (-4.8) 28 1 (-0.6)
"""  # noqa: E501
TEXT_3 = """
Random Init	23.5	22.0	2.5	2.5
Supervised	26.0	23.8	10.4	10.1
100 Epochs
SimCLR	25.6	23.9	11.3	11.4
GIM	22.6 (-3.0)	20.8 (-3.1)	9.7 (-1.6)	9.6 (-1.8)
Ours	26.1 (+0.3)	24.2 (+0.5)	11.7 (+0.4)	11.8 (+0.4)
800 Epochs
SimCLR	27.2	25.2	13.9	14.1
GIM	24.4 (-2.8)	22.4 (-2.8)	11.5 (-2.4)	11.7 (-2.4)
Ours	27.8 (+0.6)	25.6 (+0.4)	13.9 (+0.0)	13.8 (-0.3)
"""
METHODS = {"Random Init": "random", "Supervised": "supervised", "SimCLR": "simclr", "GIM": "gim", "Ours": "loco"}
ENCODERS = {"R-50": "resnet50", "Sh-50": "shufflenet_v2_50"}
NUMBER = r"(\d+)[. ](\d)(?: \(([+-]\d)[. ](\d)\))?"

Row = list[tuple[float, float | None]]


def rows_of_text(text: str) -> dict[RowKey, Row]:
    """The rows of a table in the machine-read text: every cell's value and, where one is printed, its difference."""
    rows: dict[RowKey, Row] = {}
    epochs = None
    for line in text.strip().splitlines():
        if line.endswith("Epochs"):
            epochs = int(line.split()[0])
            continue
        names, *columns = line.split("\t")
        encoders = columns.pop(0).split() if "-50" in columns[0] else ["R-50"]
        keys = [RowKey(METHODS[name], ENCODERS[encoder], epochs)
                for name, encoder in zip(re.findall("|".join(METHODS), names), encoders, strict=True)]
        cells = [re.findall(NUMBER, column) for column in columns]
        for key, *row in zip(keys, *cells, strict=True):
            assert key not in rows
            rows[key] = [(float(f"{a}.{b}"), float(f"{c}.{d}") if c else None) for a, b, c, d in row]
    return rows


@pytest.mark.parametrize("table, text", [(TABLE_2, TEXT_2), (TABLE_3, TEXT_3)], ids=["Table 2", "Table 3"])
def test_numbers_are_those_of_the_papers_text(table: PublishedTable, text: str) -> None:
    """Every row, value and printed difference, in the paper's order, as parsed from its text."""
    expected = rows_of_text(text)
    assert list(table.cells) == list(expected)
    for row, cells in table.cells.items():
        assert list(cells) == [(dataset, task) for dataset in table.datasets for task in TASKS]
        assert [(cell.value, cell.printed_delta) for cell in cells.values()] == expected[row], row


def test_printed_differences_follow_from_the_values_but_for_two() -> None:
    """Those of LoCo, 100 epochs, on COCO-10K are swapped; all others are exactly the differences of the values."""
    row = RowKey("loco", "resnet50", 100)
    found = [(wrong.row, wrong.dataset, wrong.task, wrong.printed, wrong.computed)
             for table in TABLES.values() for wrong in contradictions(table)]
    assert found == [(row, "coco10k", "bbox", 0.3, 0.5), (row, "coco10k", "segm", 0.5, 0.3)]
    swapped, checked = {(row, "coco10k", task) for task in TASKS}, 0
    for table in TABLES.values():
        for key, cells in table.cells.items():
            for (dataset, task), cell in cells.items():
                if cell.printed_delta is not None and (key, dataset, task) not in swapped:
                    assert round(table.delta(key, dataset, task), 1) == cell.printed_delta, (key, dataset, task)
                    checked += 1
    assert checked == 4 * 8 + 4 * 4 - 2


def test_which_rows_have_a_printed_difference() -> None:
    """The paper compares GIM and LoCo with SimCLR, and neither random initialisation nor supervision."""
    for table in TABLES.values():
        for row, cells in table.cells.items():
            compared = row.baseline("simclr") is not None
            assert compared == (row.method in ("gim", "loco"))
            assert all((cell.printed_delta is not None) == compared for cell in cells.values())


def test_values_and_differences_that_the_paper_does_not_have() -> None:
    """Other encoders, epochs and data sets have none, and the baseline has no difference to itself."""
    loco = RowKey("loco", "resnet50", 100)
    assert TABLE_3.value(RowKey("loco", "presnet50", 100), "coco10k", "bbox") is None
    assert TABLE_3.value(loco, "coco", "bbox") is None and TABLE_3.value(loco, "coco10k", "official") is None
    assert TABLE_3.delta(RowKey("simclr", "resnet50", 100), "coco10k", "bbox") is None
    assert TABLE_3.delta(loco, "coco10k", "bbox", baseline="random") == pytest.approx(26.1 - 23.5)
    assert TABLE_2.delta(RowKey("loco", "shufflenet_v2_50", 800), "coco", "segm", "random") is None


def test_unknown_table() -> None:
    """The tables of other tools are told."""
    assert published_table(2) is TABLE_2 and published_table(3) is TABLE_3
    with pytest.raises(ValueError, match=r"no AP table 1; known are 2, 3 .*tools/report_linear.py"):
        published_table(1)
