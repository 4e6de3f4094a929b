"""Parts of reports: states of runs, commands, tables and escaping."""

from __future__ import annotations

from pathlib import Path

import pytest
from loco_det.report.blocks import Commands, Section, duration_text, shown_path, text_table
from loco_det.report.commands import commands, recorded_command
from loco_det.report.contents import report_contents
from loco_det.report.figures import draw
from loco_det.report.sorting import numeric_columns, sort_number
from loco_det.report.step_logs import last_error
from loco_det.report.tables import result_tables

from loco_det.demo import _report_line
from loco_det.report import render
from loco_det.report.runs import FAILED, FINISHED, UNFINISHED, options_text, read_inputs
from tests.conftest import ROOT, assert_one_line_error
from tests.loco_det.detection_runs import identity, write_run
from tests.loco_det.report.experiment import demo_identity, edit, write_detection, write_linear, write_pretraining

TRACEBACK = "Traceback (most recent call last):\n  File x\nRuntimeError: <b>out of memory</b>\n"


def written(folder: Path, **options) -> str:
    """The report of a folder as text, without a gallery unless options say otherwise."""
    return render.write_report([folder], folder / "report.html", **{"gallery": 0, **options}).read_text(encoding="utf-8")


def test_a_failed_split_is_shown_with_its_message(tmp_path, synthetic_root):
    """AP of the splits that there are, the failure and its traceback, escaped; it is listed under missing."""
    write_detection(tmp_path / "run", "random", [5.0], synthetic_root, 3, {1: TRACEBACK}, detector=False)
    (run,) = read_inputs([tmp_path]).runs
    assert (run.state, run.progress, run.seconds) == (FAILED, "1 of 3 splits, begun: split_1", 60)
    text = written(tmp_path)
    assert "5.0 (1/3)" in text
    assert "split_1: RuntimeError: &lt;b&gt;out of memory&lt;/b&gt;" in text and "<b>out" not in text
    missing = report_contents([tmp_path], tmp_path / "report.html", gallery=0).missing
    assert any(part.title == "run" and "out of memory" in part.reason for part in missing)


def test_an_experiment_before_its_first_result(tmp_path, synthetic_root):
    """No split is done: the table says so, and what is missing for want of a detector."""
    write_detection(tmp_path / "run", "random", [], synthetic_root, requested=2)
    contents = report_contents([tmp_path], tmp_path / "report.html", gallery=2)
    assert {part.title for part in contents.missing} >= {"run", "AP", "Gallery of detections"}
    assert read_inputs([tmp_path]).runs[0].state == UNFINISHED
    assert "(0/2)" in written(tmp_path, gallery=2)


@pytest.mark.slow
def test_a_pretraining_that_stopped_half_way(tmp_path, image_folder):
    """How far it came, what it printed last where that was kept, its curves, and no detection."""
    write_pretraining(tmp_path / "pretrain_loco", "loco", image_folder, epochs=2, total=5)
    (run,) = read_inputs([tmp_path]).runs
    assert (run.state, run.progress, run.method) == (UNFINISHED, "2 of 5 epochs", "LoCo")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "pretrain_loco.log").write_text("epoch 2\nerror: loss is nan <here>\n")
    (tmp_path / "logs" / "mask_rcnn_gim.log").write_text("Traceback ...\nValueError: no backbone\n")
    pretraining, detection = read_inputs([tmp_path]).runs
    assert pretraining.state == FAILED and pretraining.problems[0][0] == "error: loss is nan <here>"
    assert (detection.state, detection.progress) == (FAILED, "nothing done")
    text = written(tmp_path)
    assert "loss is nan &lt;here&gt;" in text and "ValueError: no backbone" in text
    assert "Training loss of every unit" in text and "Missing: AP." in text


def test_progress_without_checkpoints(tmp_path, image_folder):
    """Logged epochs count where checkpoints were deleted; of a run without any logs nothing is done."""
    for name, rule, epochs in (("done", "loco", 3), ("half", "gim", 2), ("behind", "simclr", 3), ("none", "loco", 0)):
        write_pretraining(tmp_path / name, rule, image_folder, epochs=epochs, total=3)
    gone = [*(tmp_path / "done").glob("*.pth"), *(tmp_path / "half").glob("*.pth"),
            *(tmp_path / "behind" / f"epoch_{epoch}.pth" for epoch in (2, 3))]
    for file in gone:
        file.unlink()
    assert {run.name: (run.state, run.progress) for run in read_inputs([tmp_path]).runs} == {
        "done": (FINISHED, "3 of 3 epochs, checkpoint not here"),
        "half": (UNFINISHED, "2 of 3 epochs, checkpoint not here"),
        "behind": (UNFINISHED, "3 of 3 epochs, last checkpoint of epoch 1"),
        "none": (UNFINISHED, "0 of 3 epochs")}


@pytest.mark.parametrize(("argv", "processes", "line"), [
    (["tools/pretrain.py", "a b.py", "--resume"], 1, "python tools/pretrain.py 'a b.py'"),
    ([str(ROOT / "tools/train_det.py"), "--splits", "0"], 4, "torchrun --nproc-per-node 4 tools/train_det.py --splits 0")])
def test_a_recorded_command(argv, processes, line):
    """Quoted for a shell, without --resume, with its launcher."""
    assert recorded_command(argv, processes) == line


def test_commands_follow_their_own_checkout(tmp_path, image_folder):
    """Runs and an evaluation of three revisions and an unknown one: the source changes right before what needs it."""
    for name, rule, revision in (("a", "simclr", "1" * 40), ("b", "gim", "2" * 40 + "-dirty"), ("c", "loco", None)):
        edit(write_pretraining(tmp_path / name, rule, image_folder) / "run.json", git_revision=revision)
    edit(write_linear(tmp_path / "a", 40.0, demo_identity("simclr")), git_revision="3" * 40)
    edit(write_pretraining(tmp_path / "damaged", "gim", image_folder, seed=1) / "run.json", argv=None, git_revision=None)
    section = Section("here", "Here")
    commands(section, read_inputs([tmp_path]))
    blocks = [block for block in section.blocks if isinstance(block, Commands)]
    shown = [line if line.startswith("git") else block.title.partition(":")[0].rpartition("/")[2]
             for block in blocks for line in block.lines]
    assert shown == ["c", f"git checkout {'1' * 40}", "a", f"git checkout {'2' * 40}", "b", f"git checkout {'3' * 40}",
                     "linear_cifar10.json"]
    assert blocks[0].notes and blocks[3].notes and not blocks[1].notes
    assert [part.title for part in section.missing] == [f"Command of {tmp_path}/damaged/run.json"]


def test_tables_of_the_papers_stand_where_a_number_of_theirs_does(tmp_path):
    """Beside ours of the same method, encoder and epochs; other methods are in the general table."""
    write_run(tmp_path / "a", identity("loco", 100), [5.0, 6.0])
    write_run(tmp_path / "b", identity(demo_identity("loco", epochs=3)["method"], 3), [5.0, 6.0], dataset="cityscapes")
    tables = list(result_tables(read_inputs([tmp_path])))
    assert ["--table" in table.command for table in tables[:2]] == [False, True] and "loco-3" in tables[1].command
    assert not any("loco-2" in table.command for table in tables if table.command)
    splits = tables[-1]
    assert splits.title == "AP of every split" and splits.folded and splits.command is None
    assert [row[0] for row in splits.rows] == ["a/split_0", "a/split_1", "b/split_0", "b/split_1"]
    assert splits.header[3:6] == ["AP^bb", "AP50^bb", "AP75^bb"] and splits.rows[0][3:6] == ["5.00", "50.00", "50.00"]


def test_names_are_escaped(tmp_path):
    """Folders, methods and data sets may be called anything: in the page they are text, copied they are what they were."""
    name = "<script>alert('x')</script>&|"
    method = dict(identity("loco")["method"], label="<u>mine</u>", key="mine")
    write_run(tmp_path / "<i>run" / "1", identity(method), [5.0, 6.0], dataset=name)
    text = written(tmp_path)
    assert not any(tag in text for tag in ("<i>", "<u>", "alert('x')"))
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;| AP<sup>bb</sup>" in text
    assert "&lt;i&gt;run" in text and "&lt;u&gt;mine" in text


def test_a_table_of_texts():
    """Pipes and line breaks do not break its copies; what is empty is missing."""
    table = text_table("t", ["a|b", "n"], [["x|\ny", "1.5 ± 0.1 (-3.2)"], ["", ""]])
    assert table.rows == [["x| y", "1.5 ± 0.1 (-3.2)"], ["–", "–"]]
    assert table.markdown == "| a\\|b | n |\n| --- | --- |\n| x\\| y | 1.5 ± 0.1 (-3.2) |\n| – | – |\n"
    assert r"a|b & n \\" in table.latex and "multicolumn" not in table.latex


@pytest.mark.parametrize(("value", "text"), [
    (None, ""),
    (3, "3"),
    (dict(type="resnet18"), "resnet18"),
    (dict(type="AdamW", lr=0.1, betas=[0.9, 0.99]), "AdamW (lr=0.1, betas=[0.9, 0.99])"),
    (dict(seed=1, a=dict(b=2)), "seed=1, a.b=2"),
    ([dict(type="LinearLR", end=1), dict(type="Cosine")], "LinearLR (end=1); Cosine"),
])
def test_options_in_words(value, text):
    """The type first, nested ones by dotted names."""
    assert options_text(value) == text


@pytest.mark.parametrize(("cell", "number"), [
    ("1.5 ± 0.1", 1.5), ("-3%", -3), ("12.0 (+1.0)", 12), ("64×10×10", 64), ("1.31 G", 1.31e9), ("349 M", 349e6),
    ("133 MB", 133e6), ("2 KiB", 2048), ("5 of 5", 1), ("100 of 800 epochs", 0.125), ("0 of 0", 0), ("5 min 03 s", 5),
    ("06228e2072", None), ("2026-01-01", None), ("", None), ("loco", None)])
def test_the_number_that_a_cell_is_sorted_by(cell, number):
    """Prefixes of units are resolved, progress is a share; hashes and dates are not numbers."""
    assert sort_number(cell) == (None if number is None else pytest.approx(number))


def test_columns_of_numbers():
    """Those of which every cell that is not missing begins with a number."""
    rows = [["1.5 ± 0.1", "06228e2072", "5 of 5", "2026-01-01"], ["-3%", "11", "", "7"]]
    table = text_table("t", ["a", "b", "c", "d"], rows)
    assert numeric_columns(table) == [True, False, True, False]


@pytest.mark.parametrize(("seconds", "text"), [
    (None, ""), (0.4, "0 s"), (99.4, "99 s"), (100, "1 min 40 s"), (3599.6, "60 min 00 s"), (11_100, "3 h 05 min")])
def test_durations(seconds, text):
    """Two units at most."""
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("log", "message"), [
    ("a\nTraceback (most recent call last):\n  File x\nValueError: no\n", "ValueError: no"),
    ("RuntimeError: CUDA error\nFor debugging consider this\n  and that\n[W] a warning\n", "RuntimeError: CUDA error"),
    ("OSError: try again\n2026/01/01 12:00:00 - mmengine - INFO - Epoch(train) [1]\n", ""),
    ("OSError: try again\n" + "on it goes\n" * 20, ""),
    ("error: loss is nan\n", "error: loss is nan"), ("", "")])
def test_a_log_that_ends_in_an_error(tmp_path, log, message):
    """An error after which the run went on does not count."""
    (tmp_path / "step.log").write_text(log)
    assert last_error(tmp_path / "step.log")[0] == message
    assert last_error(tmp_path / "none.log") == ("", "")


def test_paths_are_those_of_the_projects_root(tmp_path, monkeypatch):
    """Wherever the report is written from, commands name files as they are typed in the root."""
    monkeypatch.chdir(tmp_path)
    assert shown_path(ROOT / "configs") == "configs"
    assert shown_path("run") == str(tmp_path / "run")
    (figure,) = draw("units", [ROOT / "configs/pretrain/loco_resnet18_demo.py"])
    assert figure.command == "python tools/visualize.py units configs/pretrain/loco_resnet18_demo.py"


def test_the_tool_prints_the_path(tmp_path, run_tool):
    """The file's path alone goes to stdout; folders without runs are one line on stderr."""
    write_run(tmp_path / "run", identity("random"), [5.0, 6.0])
    out = tmp_path / "new" / "report.html"
    finished = run_tool("report", tmp_path / "run", "-o", out, "--gallery", "0")
    assert (finished.returncode, finished.stdout) == (0, f"{out}\n"), finished.stderr
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run_tool("report", tmp_path / "empty", "-o", out), tmp_path / "empty")


@pytest.mark.parametrize(("directory", "out"), [("nowhere", "report.html"), ("run", "run")])
def test_bad_places(tmp_path, directory, out):
    """What does not exist, and what cannot be written, is said with its name."""
    (tmp_path / "run").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path / directory)):
        render.write_report([tmp_path / directory], tmp_path / out)


def test_the_demos_table_outlives_its_report(tmp_path):
    """A report that cannot be made is one line of the demo's summary; of one that can it is the path."""
    line = _report_line(tmp_path)
    assert "ValueError" in line and "\n" not in line
    write_run(tmp_path / "run", identity("random"), [], requested=1)
    assert _report_line(tmp_path) == f"Report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").is_file()
