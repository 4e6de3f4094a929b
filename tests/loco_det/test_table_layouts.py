"""The paper's layouts: its rows, groups and columns, ours and its numbers side by side, what is missing plainly missing."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from loco_det.evaluation.results import TASKS, RunResults
from loco_det.published import TABLE_2, TABLE_3, TABLES
from loco_det.report import ap_report
from pretrain.tables import Report
from tests.conftest import ROOT
from tests.loco_det.detection_runs import make_run, write_runs


def few_label_runs() -> list[RunResults]:
    """Some cells of Table 3 over splits, one of them incomplete."""
    return [
        make_run("loco", [26.0, 26.2, 26.4], [24.0, 24.2, 24.4], epochs=100, requested=5),
        make_run("simclr", [25.5, 25.7], [23.8, 24.0], epochs=100),
        make_run("loco", [28.0, 28.4], epochs=800),
        make_run("simclr", [27.0, 27.2], epochs=800),
        make_run("random", [2.0, 2.2], dataset="coco1k"),
    ]


def report(folder: Path, runs: Sequence[RunResults], **options: object) -> Report:
    """The report of runs that are written for it."""
    return ap_report([write_runs(folder, runs)], **options)


def cells(line: str) -> list[str]:
    """The cells of a Markdown line."""
    return [cell.strip() for cell in line.strip("|\n").split("|")]


def test_table_3(tmp_path: Path) -> None:
    """Random and supervised on top, then the two lengths of pretraining; cells without a run are dashes."""
    table = report(tmp_path, few_label_runs(), table=3)
    empty = "| – | – | – | – |"
    assert table.text.splitlines() == [
        "| Method | COCO-10K AP^bb | COCO-10K AP^mk | COCO-1K AP^bb | COCO-1K AP^mk |",
        "| --- | --- | --- | --- | --- |",
        "| Random Init | – | – | 2.1 ± 0.1 | 2.1 ± 0.1 |",
        f"| Supervised {empty}",
        "| **Pretrained weights with 100 epochs** |  |  |  |  |",
        "| SimCLR | 25.6 ± 0.1 | 23.9 ± 0.1 | – | – |",
        f"| GIM {empty}",
        "| LoCo (Ours) | 26.2 ± 0.2 (3/5 splits) | 24.2 ± 0.2 (3/5 splits) | – | – |",
        "| **Pretrained weights with 800 epochs** |  |  |  |  |",
        "| SimCLR | 27.1 ± 0.1 | 27.1 ± 0.1 | – | – |",
        f"| GIM {empty}",
        "| LoCo (Ours) | 28.2 ± 0.3 (+1.1) | 28.2 ± 0.3 (+1.1) | – | – |",
    ]
    assert table.warnings == [
        "loco (100 epochs) on coco10k is incomplete: 3 of 5 splits are finished",
        "loco (100 epochs) on coco10k is averaged over splits [0, 1, 2], but simclr (100 epochs) over [0, 1]: no difference "
        "told between them",
    ]
    assert table.notes == []


def test_table_2(tmp_path: Path) -> None:
    """Rows name their architecture; each is compared with SimCLR of the same one; Cityscapes' own AP has its column."""
    runs = [
        make_run("supervised", [33.0], [31.0], "coco"),
        make_run("loco", [32.5], [30.0], "coco", epochs=100),
        make_run("simclr", [32.0], [30.5], "coco", epochs=100),
        make_run("loco", [31.0], [29.0], "coco", encoder="shufflenet_v2_50", epochs=100),
        make_run("simclr", [33.0], [29.5], "coco", encoder="shufflenet_v2_50", epochs=100),
        make_run("simclr", [33.1], [28.1], "cityscapes", official=[27.5], epochs=100),
    ]
    lines = report(tmp_path, runs, table=2).text.splitlines()
    assert cells(lines[0]) == ["Method", "Arch", "COCO AP^bb", "COCO AP^mk", "Cityscapes AP^bb", "Cityscapes AP^mk",
                               "Cityscapes AP (cityscapesscripts)"]
    assert [cells(line)[:2] for line in lines[2:]] == [
        ["Supervised", "R-50"],
        ["**Backbone weights with 100 epochs**", ""],
        *([method, arch] for arch in ("R-50", "Sh-50") for method in ("SimCLR", "GIM", "LoCo (Ours)")),
        ["**Backbone weights with 800 epochs**", ""],
        *([method, arch] for arch in ("R-50", "Sh-50") for method in ("SimCLR", "GIM", "LoCo (Ours)")),
    ]
    assert "| SimCLR | R-50 | 32.0 | 30.5 | 33.1 | 28.1 | 27.5 |" in lines
    assert "| LoCo (Ours) | R-50 | 32.5 (+0.5) | 30.0 (-0.5) | – | – | – |" in lines
    assert "| LoCo (Ours) | Sh-50 | 31.0 (-2.0) | 29.0 (-0.5) | – | – | – |" in lines


def test_paper_side_by_side(tmp_path: Path) -> None:
    """Every cell has the published one at its right, with the difference that its values give, not the printed one."""
    table = report(tmp_path, few_label_runs(), table=3, paper=True)
    lines = table.text.splitlines()
    assert cells(lines[0]) == ["Method", *(f"{dataset} {task}{suffix}" for dataset in ("COCO-10K", "COCO-1K")
                                           for task in ("AP^bb", "AP^mk") for suffix in ("", ", paper"))]
    assert cells(lines[7]) == ["LoCo (Ours)", "26.2 ± 0.2 (3/5 splits)", "26.1 (+0.5)", "24.2 ± 0.2 (3/5 splits)",
                               "24.2 (+0.3)", "–", "11.7 (+0.4)", "–", "11.8 (+0.4)"]
    assert cells(lines[2]) == ["Random Init", "–", "23.5", "–", "22.0", "2.1 ± 0.1", "2.5", "2.1 ± 0.1", "2.5"]


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: f"Table {table.number}")
def test_all_published_numbers_are_shown(table, tmp_path: Path) -> None:
    """The paper's columns of the Markdown and the JSON form hold exactly its values."""
    runs = [make_run("loco", [1.0], dataset=table.datasets[0], epochs=100)]
    markdown = report(tmp_path, runs, table=table.number, paper=True).text.splitlines()
    columns = [i for i, title in enumerate(cells(markdown[0])) if title.endswith(", paper")]
    shown = [[float(cells(line)[i].split()[0]) for i in columns] for line in markdown[2:] if "**" not in line]
    assert shown == [[cell.value for cell in row.values()] for row in table.cells.values()]
    rows = json.loads(ap_report([tmp_path], fmt="json", table=table.number, paper=True).text)["rows"]
    values = [row[f"{task}_paper"] for row in rows for task in TASKS]
    assert values == [cell.value for row in table.cells.values() for cell in row.values()]


def test_notes_tell_what_is_wrong_in_the_paper(tmp_path: Path) -> None:
    """The swapped differences, and ours beside what the paper says of its deviations."""
    notes = report(tmp_path, few_label_runs(), table=3, paper=True).notes
    assert notes == [
        "the paper prints (+0.3) beside the COCO-10K AP^bb of LoCo (Ours) R-50 100 epochs, but its values give +0.5, which "
        "is shown",
        "the paper prints (+0.5) beside the COCO-10K AP^mk of LoCo (Ours) R-50 100 epochs, but its values give +0.3, which "
        "is shown",
        "the paper averages over 5 splits; not the splits 0 to 4 are those of random on COCO-1K ([0, 1]), simclr (100 "
        "epochs) on COCO-10K ([0, 1]), simclr (800 epochs) on COCO-10K ([0, 1]), loco (800 epochs) on COCO-10K ([0, 1])",
        'the paper tells no deviations, only that over its 5 splits "the variance is very small (< 0.2)"; our standard '
        "deviations: COCO-10K AP^bb 0.14 to 0.28, AP^mk 0.14 to 0.28; COCO-1K AP^bb 0.14, AP^mk 0.14",
    ]
    single = report(tmp_path / "one", [make_run("loco", [1.0])], table=3, paper=True)
    assert single.notes[-1].endswith("our standard deviations: none yet, they take two splits of a run")


def test_note_on_other_numbers_of_splits(tmp_path: Path) -> None:
    """A run of fewer splits is complete, but not the paper's; five, finished or not, need no note; nor other data sets."""
    runs = [
        make_run("loco", [1.0] * 5, epochs=100),
        make_run("simclr", [1.0], epochs=100, requested=5),
        make_run("gim", [1.0, 1.0], epochs=100),
        make_run("gim", [1.0, 1.0], dataset="coco_mini", epochs=100),
    ]
    table = report(tmp_path, runs, table=3, paper=True)
    assert [line for line in table.notes if "averages over" in line] == [
        "the paper averages over 5 splits; not the splits 0 to 4 are those of gim on COCO-10K ([0, 1])"
    ]
    assert ap_report([tmp_path], table=3).notes == []


def test_note_on_cityscapes(tmp_path: Path) -> None:
    """Two mask AP stand beside one published; the note says that the paper does not tell which it is."""
    runs = [make_run("loco", [1.0], dataset="cityscapes", official=[2.0], epochs=100)]
    (note,) = report(tmp_path, runs, table=2, paper=True).notes
    assert "does not tell whether its masks on Cityscapes are evaluated as COCO's or by cityscapesscripts" in note


def test_rows_and_columns_beyond_the_paper(tmp_path: Path) -> None:
    """Other encoders, methods and epochs follow the paper's rows, other data sets its columns; without published numbers."""
    runs = [
        *few_label_runs(),
        make_run("loco", [7.0], encoder="presnet50", epochs=100),
        make_run("decoupled", [6.0], epochs=100),
        make_run("loco", [5.0], epochs=200),
        make_run("gim", [4.0]),
        make_run("loco", [3.0, 3.2], dataset="coco_mini", epochs=100),
    ]
    table = report(tmp_path, runs, table=3, paper=True)
    lines = [cells(line) for line in table.text.splitlines()]
    assert lines[0][:2] == ["Method", "Arch"] and lines[0][-2:] == ["coco_mini AP^bb", "coco_mini AP^mk"]
    assert [line[:2] for line in lines[4:]] == [
        ["**Pretrained weights with 100 epochs**", ""],
        ["SimCLR", "R-50"], ["GIM", "R-50"], ["LoCo (Ours)", "R-50"], ["decoupled", "R-50"], ["LoCo (Ours)", "PResNet-50"],
        ["**Pretrained weights with 200 epochs**", ""],
        ["LoCo (Ours)", "R-50"],
        ["**Pretrained weights with 800 epochs**", ""],
        ["SimCLR", "R-50"], ["GIM", "R-50"], ["LoCo (Ours)", "R-50"],
        ["**Pretrained weights with unknown epochs**", ""],
        ["GIM", "R-50"],
    ]  # fmt: skip
    assert lines[9][2:] == ["7.0", "–", "7.0", "–", "–", "–", "–", "–", "–", "–"]
    assert lines[7][-2:] == ["3.1 ± 0.1", "3.1 ± 0.1"]
    assert "; coco_mini AP^bb 0.14, AP^mk 0.14" in table.notes[-1]


def test_runs_of_the_other_table_are_told(tmp_path: Path) -> None:
    """A folder with everything fills both tables; what is not in one is said, not dropped in silence."""
    runs = [make_run("loco", [1.0], dataset="coco", epochs=100), make_run("random", [2.0])]
    table = report(tmp_path, runs, table=3)
    assert (table.warnings, table.notes) == ([], ["not in Table 3: 1 run on coco"])
    assert "1.0" not in table.text and "| Random Init | 2.0 | 2.0 |" in table.text


def test_other_baseline(tmp_path: Path) -> None:
    """Differences to another row, in ours and in the paper's numbers alike."""
    runs = [make_run("random", [20.0]), make_run("loco", [26.0], epochs=100), make_run("supervised", [25.0])]
    text = report(tmp_path, runs, baseline="random", table=3, paper=True).text
    assert "| Supervised | 25.0 (+5.0) | 26.0 (+2.5) |" in text and "| LoCo (Ours) | 26.0 (+6.0) | 26.1 (+2.6) |" in text


def test_latex(tmp_path: Path) -> None:
    """Headings between rules, a column group for each data set, as many cells in every line, ASCII only."""
    text = report(tmp_path, few_label_runs(), table=3, paper=True, fmt="latex").text
    lines = text.splitlines()
    assert text.isascii() and lines[1] == r"\begin{tabular}{lcccccccc}"
    assert lines[3:5] == [r"& \multicolumn{4}{c}{COCO-10K} & \multicolumn{4}{c}{COCO-1K} \\",
                          r"\cmidrule(lr){2-5} \cmidrule(lr){6-9}"]
    assert lines[5].startswith(r"Method & AP$^{bb}$ & AP$^{bb}$, paper & AP$^{mk}$ &")
    at = lines.index(r"\multicolumn{9}{c}{Pretrained weights with 100 epochs} \\")
    assert lines[at - 1] == lines[at + 1] == r"\midrule" and r"\midrule" not in lines[at - 3 : at - 1]
    assert {line.count("&") for line in lines[7:-2] if not line.startswith("\\")} == {8}


def test_csv_has_every_cell_of_the_layout(tmp_path: Path) -> None:
    """One line for each row and data set; empty where there is no run."""
    rows = list(csv.DictReader(io.StringIO(report(tmp_path, few_label_runs(), table=3, paper=True, fmt="csv").text)))
    assert len(rows) == len(TABLE_3.cells) * len(TABLE_3.datasets)
    by_key = {(row["method"], row["pretraining_epochs"], row["dataset"]): row for row in rows}
    loco = by_key["loco", "100", "coco10k"]
    assert (loco["bbox_splits"], loco["requested_splits"], loco["bbox_delta"]) == ("3", "5", "")
    assert float(loco["bbox_paper_delta"]) == pytest.approx(0.5)
    gim = by_key["gim", "800", "coco1k"]
    assert (gim["segm_splits"], gim["bbox_mean"], gim["segm_paper"]) == ("0", "", "11.7")
    plain = list(csv.DictReader(io.StringIO(ap_report([tmp_path], fmt="csv", table=2).text)))
    assert len(plain) == len(TABLE_2.cells) * len(TABLE_2.datasets) and "bbox_paper" not in plain[0]


def test_wrong_options(tmp_path: Path) -> None:
    """Told before any file is read."""
    with pytest.raises(ValueError, match="--paper needs --table 2 or --table 3"):
        ap_report([tmp_path], paper=True)
    with pytest.raises(ValueError, match="no AP table 4"):
        ap_report([tmp_path], table=4)


def test_tool(tmp_path: Path) -> None:
    """The command: the table on stdout, warnings and notes on stderr."""
    expected = report(tmp_path, few_label_runs(), table=3, paper=True)
    command = [sys.executable, "tools/report_ap.py", str(tmp_path), "--table", "3", "--paper"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stdout) == (0, expected.text)
    assert done.stderr.splitlines() == [*(f"warning: {line}" for line in expected.warnings),
                                        *(f"note: {line}" for line in expected.notes)]
