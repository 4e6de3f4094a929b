"""AP tables: the paper's form and signs, honest about what is missing, quick and quiet."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from loco_det.evaluation.results import ResultsError, RunResults
from loco_det.report import ap_report, ap_table_rows, find_results
from tests.loco_det.detection_runs import make_run, write_runs

REPOSITORY = Path(__file__).resolve().parents[2]


def paper_runs() -> list[RunResults]:
    """Table 3 of the paper, 100 epochs, on two splits; GIM lacks COCO-1K. Out of order."""
    return [
        make_run("loco", [26.0, 26.2], [24.1, 24.3]),
        make_run("zeta", [1.0, 1.0]),
        make_run("gim", [22.5, 22.7], [20.8, 20.8]),
        make_run("simclr", [25.6, 25.6], [23.8, 24.0]),
        make_run("decoupled", [2.0, 2.0]),
        make_run("random", [23.5, 23.5], [22.0, 22.0]),
        make_run("supervised", [26.0, 26.0], [23.8, 23.8]),
        make_run("loco", [11.7, 11.7], [11.8, 11.8], "coco1k"),
        make_run("simclr", [11.3, 11.3], [11.4, 11.4], "coco1k"),
    ]


def run_tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, from the repository's root."""
    return subprocess.run(
        [sys.executable, "tools/report_ap.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def test_markdown(tmp_path: Path) -> None:
    """Rows in the paper's order, then by name; columns by data set; signed deltas in brackets."""
    report = ap_report([write_runs(tmp_path, paper_runs())])
    header = "| Method | COCO-10K AP^bb | COCO-10K AP^mk | COCO-1K AP^bb | COCO-1K AP^mk |"
    loco = "| loco | 26.1 ± 0.1 (+0.5) | 24.2 ± 0.1 (+0.3) | 11.7 ± 0.0 (+0.4) |"
    assert report.text.splitlines() == [
        header,
        "| --- | --- | --- | --- | --- |",
        "| random | 23.5 ± 0.0 | 22.0 ± 0.0 | – | – |",
        "| supervised | 26.0 ± 0.0 | 23.8 ± 0.0 | – | – |",
        "| simclr | 25.6 ± 0.0 | 23.9 ± 0.1 | 11.3 ± 0.0 | 11.4 ± 0.0 |",
        "| gim | 22.6 ± 0.1 (-3.0) | 20.8 ± 0.0 (-3.1) | – | – |",
        f"{loco} 11.8 ± 0.0 (+0.4) |",
        "| decoupled | 2.0 ± 0.0 (-23.6) | 2.0 ± 0.0 (-21.9) | – | – |",
        "| zeta | 1.0 ± 0.0 (-24.6) | 1.0 ± 0.0 (-22.9) | – | – |",
    ]
    assert report.text.endswith("|\n") and report.warnings == []


def test_data_sets_are_column_groups_in_the_papers_order() -> None:
    """COCO, Cityscapes, COCO-10K, COCO-1K, then others by name; names are escaped."""
    names = ["zoo", "coco1k", "a|b_c", "coco10k", "cityscapes", "coco"]
    rows = ap_table_rows([make_run("simclr", [1.0], dataset=name) for name in names])["rows"]
    order = ["coco", "cityscapes", "coco10k", "coco1k", "a|b_c", "zoo"]
    assert [row["dataset"] for row in rows] == order


def test_markdown_and_latex_escape_names(tmp_path: Path) -> None:
    """A pipe ends a Markdown cell and an underscore stops LaTeX, so both are escaped."""
    write_runs(tmp_path, [make_run("a|b_c&d", [1.0])])
    assert r"| a\|b_c&d | 1.0 | 1.0 |" in ap_report([tmp_path]).text
    assert r"a|b\_c\&d & 1.0 & 1.0 \\" in ap_report([tmp_path], fmt="latex").text


def test_deviation_is_shown_only_where_there_is_one() -> None:
    """One split has no deviation, in numbers and in the table; it is never called 0."""
    (row,) = ap_table_rows([make_run("simclr", [12.0])])["rows"]
    assert row["bbox_mean"] == 12.0 and row["bbox_std"] is None and row["bbox_splits"] == 1


def test_rows_hold_unrounded_numbers() -> None:
    """The JSON rows: means, sample deviations and differences of unrounded means."""
    runs = [make_run("simclr", [25.0, 26.0, 25.5]), make_run("gim", [22.04, 22.0, 22.11])]
    base, gim = ap_table_rows(runs)["rows"]
    assert list(gim) == [
        "method",
        "encoder",
        "pretraining_epochs",
        "dataset",
        *(f"{task}_{part}" for task in ("bbox", "segm", "official") for part in ("mean", "std", "delta", "splits")),
        "requested_splits",
    ]
    assert gim["bbox_mean"] == pytest.approx(22.05)
    assert gim["bbox_std"] == pytest.approx(0.0556776, abs=1e-6)
    assert gim["bbox_delta"] == gim["segm_delta"] == pytest.approx(22.05 - 25.5)
    assert gim["bbox_splits"] == gim["segm_splits"] == gim["requested_splits"] == 3
    assert gim["official_splits"] == 0
    assert base["bbox_delta"] is None, "the baseline does not differ from itself"


def test_no_negative_zero(tmp_path: Path) -> None:
    """A difference that rounds to nothing reads (+0.0), as in the paper, not (-0.0)."""
    write_runs(tmp_path, [make_run("simclr", [13.9]), make_run("loco", [13.88])])
    assert "| loco | 13.9 (+0.0) | 13.9 (+0.0) |" in ap_report([tmp_path]).text


def test_incomplete_run_is_marked(tmp_path: Path) -> None:
    """Fewer splits than requested are told in cells, rows and a warning; averages over different splits are not compared."""
    runs = [make_run("simclr", [25.0, 25.0]), make_run("gim", [22.0], requested=5)]
    runs += [make_run("loco", [], requested=5)]
    report = ap_report([write_runs(tmp_path, runs)])
    cell = "22.0 (1/5 splits)"
    assert f"| gim | {cell} | {cell} |" in report.text
    assert "| loco | – (0/5 splits) | – (0/5 splits) |" in report.text
    assert "| simclr | 25.0 ± 0.0 | 25.0 ± 0.0 |" in report.text
    assert report.warnings == [
        "gim on coco10k is incomplete: 1 of 5 splits are finished",
        "gim on coco10k is averaged over splits [0], but simclr over [0, 1]: no difference told between them",
        "loco on coco10k is incomplete: 0 of 5 splits are finished",
    ]
    rows = ap_table_rows(runs)["rows"]
    assert [(row["bbox_splits"], row["requested_splits"]) for row in rows] == [(2, 2), (1, 5), (0, 5)]


def test_split_without_a_value_is_not_averaged_in_silence(tmp_path: Path) -> None:
    """A null AP is left out of the mean, and the cell says over how many splits it is."""
    report = ap_report([write_runs(tmp_path, [make_run("simclr", [20.0, None], [10.0, None])])])
    assert "| simclr | 20.0 (1/2 splits) | 10.0 (1/2 splits) |" in report.text


def test_incomplete_runs_of_the_same_splits_are_compared(tmp_path: Path) -> None:
    """While several runs go on side by side, what all have finished can be compared."""
    runs = [make_run("simclr", [25.0, 26.0], requested=5), make_run("loco", [26.0, 28.0], requested=5)]
    assert "| loco | 27.0 ± 1.4 (+1.5) (2/5 splits) |" in ap_report([write_runs(tmp_path, runs)]).text


def test_encoder_and_epochs_are_named_where_they_differ(tmp_path: Path) -> None:
    """Rows are told apart by what differs; differences are to the baseline of the same encoder and epochs."""
    runs = [make_run("random", [10.0]), make_run("simclr", [20.0], epochs=100), make_run("loco", [21.0], epochs=100)]
    assert ap_report([write_runs(tmp_path / "one", runs)]).text.startswith("| Method | COCO-10K AP^bb |")
    runs += [make_run("simclr", [30.0], epochs=800), make_run("loco", [33.0], epochs=800)]
    assert ap_report([write_runs(tmp_path / "epochs", runs)]).text.splitlines()[2:] == [
        "| random | – | 10.0 | 10.0 |",
        "| simclr | 100 | 20.0 | 20.0 |",
        "| loco | 100 | 21.0 (+1.0) | 21.0 (+1.0) |",
        "| simclr | 800 | 30.0 | 30.0 |",
        "| loco | 800 | 33.0 (+3.0) | 33.0 (+3.0) |",
    ]
    runs += [make_run("loco", [44.0], encoder="presnet50", epochs=100), make_run("gim", [9.0])]
    report = ap_report([write_runs(tmp_path / "both", runs)])
    lines = report.text.splitlines()
    assert lines[0] == "| Method | Encoder | Epochs | COCO-10K AP^bb | COCO-10K AP^mk |"
    assert lines[-2:] == ["| gim | resnet50 | – | 9.0 | 9.0 |", "| loco | presnet50 | 100 | 44.0 | 44.0 |"]
    assert report.warnings == [
        "no run of the baseline simclr (resnet50, unknown epochs) on coco10k: no differences there",
        "no run of the baseline simclr (presnet50, 100 epochs) on coco10k: no differences there",
    ]


def test_baseline_without_epochs(tmp_path: Path) -> None:
    """Random initialisation is the baseline of every row of its encoder, however long that was pretrained."""
    runs = [make_run("random", [10.0]), make_run("supervised", [20.0]), make_run("loco", [21.0], epochs=100)]
    runs += [make_run("loco", [22.0], epochs=800), make_run("loco", [9.0], encoder="resnet18", epochs=800)]
    rows = ap_table_rows(runs, "random")["rows"]
    assert [row["bbox_delta"] for row in rows] == [None, 10.0, 11.0, 12.0, None]


def test_official_precision_has_a_column(tmp_path: Path) -> None:
    """Where a data set's own evaluation was run, its AP stands beside COCO's under its own name."""
    runs = [
        make_run("simclr", [33.0], [28.0], "cityscapes", official=[27.0]),
        make_run("loco", [33.5], [28.5], "cityscapes", official=[26.0]),
        make_run("loco", [12.0], dataset="coco1k"),
        make_run("gim", [30.0], [25.0], "cityscapes"),
    ]
    text = ap_report([write_runs(tmp_path, runs)]).text
    titles = ["Method", "Cityscapes AP^bb", "Cityscapes AP^mk", "Cityscapes AP (cityscapesscripts)"]
    assert text.startswith(f"| {' | '.join(titles)} | COCO-1K AP^bb |")
    assert "| loco | 33.5 (+0.5) | 28.5 (+0.5) | 26.0 (-1.0) | 12.0 | 12.0 |" in text
    assert "| gim | 30.0 (-3.0) | 25.0 (-3.0) | – (0/1 splits) | – | – |" in text
    latex = ap_report([tmp_path], fmt="latex").text
    assert r"\multicolumn{3}{c}{Cityscapes}" in latex and r"AP$^{mk}$ & AP (cityscapesscripts) & AP$^{bb}$" in latex
    gim, loco = ap_table_rows(runs)["rows"][1:3]
    assert gim["official_mean"] is None and (loco["official_mean"], loco["official_delta"]) == (26.0, -1.0)


def test_every_task_tells_over_how_many_splits_it_is(tmp_path: Path) -> None:
    """A split without mask AP does not make the box AP one of fewer splits, in JSON, CSV and the table's cells."""
    run = make_run("simclr", [25.0, 26.0], [24.0, None])
    (row,) = ap_table_rows([run])["rows"]
    assert (row["bbox_splits"], row["segm_splits"], row["official_splits"], row["requested_splits"]) == (2, 1, 0, 2)
    assert "splits" not in row
    (line,) = csv.DictReader(io.StringIO(ap_report([write_runs(tmp_path, [run])], fmt="csv").text))
    assert (line["bbox_splits"], line["segm_splits"]) == ("2", "1")
    assert "| simclr | 25.5 ± 0.7 | 24.0 (1/2 splits) |" in ap_report([tmp_path]).text


def test_two_runs_of_one_cell(tmp_path: Path) -> None:
    """The same row and data set twice: which to show is the user's decision."""
    for name in ("first", "second"):
        make_run("loco", [1.0]).write(tmp_path / name / "results.json")
    folders = f"{tmp_path / 'first'} and {tmp_path / 'second'}"
    expected = f"two runs of loco on coco10k: {folders}, both of resnet50, unknown epochs; leave one out"
    with pytest.raises(ValueError, match=re.escape(expected)):
        ap_report([tmp_path])


def test_find_results(tmp_path: Path) -> None:
    """A folder's own results, or else all below it; each file once; nothing found is an error."""
    run = make_run("loco", [1.0])
    files = [tmp_path / name / "results.json" for name in ("a", "b/deep", "a/split_0")]
    for file in files:
        run.write(file)
    assert find_results([tmp_path / "a"]) == [files[0]], "its own file hides those below"
    assert find_results([tmp_path / "b", tmp_path / "b" / "deep"]) == [files[1]]
    assert find_results([tmp_path]) == [files[0], files[2], files[1]]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match="empty/results.json does not exist, nor any"):
        find_results([tmp_path / "a", tmp_path / "empty"])
    with pytest.raises(ResultsError, match="nowhere is not a folder"):
        find_results([tmp_path / "nowhere"])


def test_csv(tmp_path: Path) -> None:
    """One line for each method and data set, plain numbers, nothing where there is no value."""
    text = ap_report([write_runs(tmp_path, paper_runs())], fmt="csv").text
    lines = list(csv.DictReader(io.StringIO(text)))
    expected = ap_table_rows(paper_runs())["rows"]
    assert len(lines) == len(expected) == 9
    for line, row in zip(lines, expected, strict=True):
        assert {k: v or None for k, v in line.items()} == {
            k: None if v is None else str(v) for k, v in row.items()
        }
    assert lines[2]["method"] == "simclr" and lines[2]["bbox_delta"] == ""


def test_json(tmp_path: Path) -> None:
    """The JSON format is the rows themselves."""
    text = ap_report([write_runs(tmp_path, paper_runs())], fmt="json").text
    assert json.loads(text) == ap_table_rows(paper_runs())


def test_latex(tmp_path: Path) -> None:
    """booktabs, a column group for each data set, as many cells in every line, ASCII only."""
    text = ap_report([write_runs(tmp_path, paper_runs())], fmt="latex").text
    lines = text.splitlines()
    assert text.isascii()
    assert lines[1:6] == [
        r"\begin{tabular}{lcccc}",
        r"\toprule",
        r"& \multicolumn{2}{c}{COCO-10K} & \multicolumn{2}{c}{COCO-1K} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"Method & AP$^{bb}$ & AP$^{mk}$ & AP$^{bb}$ & AP$^{mk}$ \\",
    ]
    gim = r"gim & 22.6 $\pm$ 0.1 ($-3.0$) & 20.8 $\pm$ 0.0 ($-3.1$) & -- & -- \\"
    assert gim in lines and lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert {line.count("&") for line in lines[7:-2]} == {4}


def test_unknown_format(tmp_path: Path) -> None:
    """The formats there are, are named."""
    with pytest.raises(ValueError, match="markdown, latex, csv, json"):
        ap_report([tmp_path], fmt="html")


def test_tool_prints_the_table_only(tmp_path: Path) -> None:
    """The command: the table on stdout, warnings on stderr, exit code 0."""
    write_runs(tmp_path, paper_runs())
    done = run_tool(tmp_path, "--baseline", "gim", "--format", "csv")
    assert (done.returncode, done.stdout) == (0, ap_report([tmp_path], "gim", "csv").text)
    assert done.stderr == "warning: no run of the baseline gim on coco1k: no differences there\n"


def documented_commands() -> list[str]:
    """Every call of the tool in the documentation and in its own docstring."""
    files = [REPOSITORY / "README.md", REPOSITORY / "configs" / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")),
             REPOSITORY / "tools" / "report_ap.py"]
    call = re.compile(r"^ *\S*python tools/report_ap\.py (.+)$", re.MULTILINE)
    return [arguments for file in files for arguments in call.findall(file.read_text(encoding="utf-8"))]


def test_documented_commands_run(tmp_path: Path) -> None:
    """Each is given to a shell in a folder that has such work directories, and prints a table."""
    for data in ("coco", "coco10k", "coco_mini"):
        for method in ("random", "simclr", "loco"):
            make_run(method, [1.0], dataset=data).write(tmp_path / f"work_dirs/mask_rcnn_{method}_{data}/results.json")
    commands = documented_commands()
    assert len(commands) >= 5
    for arguments in commands:
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} {REPOSITORY}/tools/report_ap.py {arguments}"],
            cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": "utf-8"}, capture_output=True, encoding="utf-8", timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert "tabular" in (tmp_path / "table.tex").read_text(encoding="utf-8")


def test_tool_reports_errors_in_one_line(tmp_path: Path) -> None:
    """A missing, foreign or doubled results.json: one line on stderr, no table, exit code 2."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text('{"AP": 1}')
    for folder, message in (("none", "not a folder"), ("bad", "not a results file")):
        done = run_tool(tmp_path / folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {tmp_path / folder}") and message in done.stderr
        assert done.stderr.count("\n") == 1


def test_report_does_not_load_torch() -> None:
    """The table must come at once: neither torch nor the detection packages nor the readout are imported."""
    script = (
        "import sys, loco_det.report; "
        "print([m for m in ('torch', 'numpy', 'mmcv', 'mmengine', 'mmdet', 'pretrain.readout') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
