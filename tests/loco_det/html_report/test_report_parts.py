"""Reports of what is unfinished, has failed, is damaged or not there at all; commands; escaping."""

from __future__ import annotations

import argparse
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from loco_det.demo import _report_line
from loco_det.html_report import render
from loco_det.html_report.blocks import Section, Table, plain_table, spelled_seconds
from loco_det.html_report.commands import run_command
from loco_det.html_report.contents import report_contents
from loco_det.html_report.readout_commands import record_command
from loco_det.html_report.run_logs import read_run_logs
from loco_det.html_report.runs import DAMAGED, FAILED, FINISHED, UNFINISHED, find_runs, read_run
from loco_det.html_report.sorting import numeric_columns, sort_number
from pretrain.cli import add_config_arguments, load_config
from pretrain.readout.arguments import add_analysis_arguments, add_readout_arguments
from pretrain.work_dir import config_fingerprint
from tests.conftest import ROOT, assert_one_line_error
from tests.loco_det.html_report.experiment import demo_run, write_detection, write_pretraining

TRACEBACK = "Traceback (most recent call last):\n  File x\nRuntimeError: <b>out of memory</b>\n"


def written(folder: Path, **options) -> str:
    """The report of a folder as text, without a gallery unless options say otherwise."""
    return render.write_report([folder], folder / "report.html", **{"gallery": 0, **options}).read_text(encoding="utf-8")


def test_a_failed_split_is_shown_with_its_message(tmp_path, synthetic_root):
    """AP of the splits that there are, the failure and its traceback, escaped, and how to go on."""
    write_detection(tmp_path / "run", demo_run("random", [5.0], requested=3),
                    synthetic_root, errors={1: TRACEBACK})
    (run,) = find_runs([tmp_path])
    assert (run.state, run.progress) == (FAILED, "1 of 3 splits, begun: split_1")
    assert run.seconds == 60
    text = written(tmp_path)
    assert "5.0 (1/3 splits)" in text
    assert "split_1: RuntimeError: &lt;b&gt;out of memory&lt;/b&gt;" in text and "<b>out" not in text
    assert "with --resume it goes on" in text


def test_an_experiment_before_its_first_result(tmp_path, synthetic_root):
    """No split is done: the report says so in the table's cells, and what is missing for want of a detector."""
    write_detection(tmp_path / "run", demo_run("random", [], requested=2), synthetic_root)
    contents = report_contents([tmp_path], tmp_path / "report.html", gallery=2)
    reasons = {part.title: part.reason for part in contents.missing}
    assert reasons["Every split"] == "no split is finished yet"
    assert reasons["Gallery of detections"] == "no detector is trained yet; run tools/train_det.py first"
    assert read_run(tmp_path / "run").state == UNFINISHED
    assert "(0/2 splits)" in written(tmp_path, gallery=2)


@pytest.mark.slow
def test_a_pretraining_that_stopped_half_way(tmp_path, image_folder):
    """How far it came, what it printed last where that was kept, its curves, and no detection."""
    write_pretraining(tmp_path / "pretrain_loco", "loco", image_folder, epochs=2, total=5)
    (run,) = find_runs([tmp_path])
    assert (run.state, run.progress) == (UNFINISHED, "2 of 5 epochs")
    assert dict(run.facts)["last line of its log"] == "epoch 2, iteration 8"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "pretrain_loco.log").write_text("epoch 2\nerror: loss is nan <here>\n")
    (tmp_path / "logs" / "mask_rcnn_gim.log").write_text("Traceback ...\nValueError: no backbone\n")
    pretraining, detection = find_runs([tmp_path])
    assert pretraining.state == FAILED and pretraining.problems[0][0] == "error: loss is nan <here>"
    assert (detection.state, detection.progress) == (FAILED, "nothing done")
    text = written(tmp_path)
    assert "loss is nan &lt;here&gt;" in text and "ValueError: no backbone" in text
    assert "Training loss of every unit" in text
    assert "Missing: AP of all methods." in text and "no detection results; run tools/train_det.py first" in text


def test_a_pretraining_that_has_logged_nothing(tmp_path, image_folder):
    """Killed before its first line: the run is told, and its command as far as it is known."""
    folder = write_pretraining(tmp_path / "run", "gim", image_folder, epochs=0)
    shutil.rmtree(next(folder.glob("2*")))
    run = read_run(folder)
    assert (run.state, run.progress, run.seconds) == (UNFINISHED, "0 of 5 epochs", None)
    assert dict(run.facts)["last line of its log"] == "nothing logged"
    with pytest.raises(ValueError, match="does not tell its config file"):
        run_command(run)


def test_damaged_files_cost_nothing_but_themselves(tmp_path, synthetic_root):
    """A results file and a record that cannot be read are told by name; the other run's AP is there."""
    write_detection(tmp_path / "good", demo_run("random", [5.0, 6.0]), synthetic_root)
    write_detection(tmp_path / "bad", demo_run("random", [5.0, 6.0]), synthetic_root)
    (tmp_path / "bad" / "results.json").write_text("{")
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "run.json").write_text('{"config": 3}')
    text = written(tmp_path)
    assert "5.5 ± 0.7" in text
    problem = f"{tmp_path}/bad/results.json is not a results file of tools/train_det.py"
    assert text.count(problem) == 2  # where its AP would be, and in its run's details
    assert read_run(tmp_path / "worse").state == DAMAGED and f"{tmp_path}/worse/run.json cannot be used" in text


def test_whatever_breaks_in_a_part_is_told_at_its_place(capsys):
    """A mistake of the user's by its message, any other by its kind, too, and on stderr."""
    def broken(error):
        raise error

    def half():
        yield plain_table("t", ["a"], [["1"]])
        raise OSError("disk is full")

    section = Section("here", "Here")
    section.add("Half", half)
    assert [block.kind for block in section.blocks] == ["table", "missing"] and section.blocks[1].reason == "disk is full"
    section = Section("here", "Here")
    section.add("First", broken, ValueError("no such\nfile"))
    section.add("Second", broken, KeyError("x"))
    assert [(part.title, part.reason, part.anchor) for part in section.missing] == [
        ("First", "no such file", "here-missing-1"), ("Second", "KeyError: 'x'", "here-missing-2")]
    assert capsys.readouterr().err == "warning: Second is missing in the report: KeyError: 'x'\n"


@pytest.mark.parametrize("rule", ["loco", "simclr"])
def test_the_command_of_a_pretraining_computes_the_same(tmp_path, image_folder, monkeypatch, rule):
    """What tools/pretrain.py makes of the command's arguments has the fingerprint of the config that was run."""
    monkeypatch.chdir(ROOT)
    options = {"randomness": dict(seed=3), "train_dataloader.dataset.views.size": 32, "optim_wrapper.optimizer.lr": 1e-05,
               "param_scheduler.0.start_factor": 0.5, "optim_wrapper.optimizer.betas": [0.9, 0.95],
               "model.autocast": "bfloat16"}
    folder = write_pretraining(tmp_path / "my run", rule, image_folder, options=options)
    run = read_run(folder)
    line, notes = run_command(run)
    assert notes == []
    python, tool, *arguments = shlex.split(line)
    assert (python.rpartition("/")[2], tool) == ("python", "tools/pretrain.py")
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    add_config_arguments(parser, "")
    args = parser.parse_args(arguments)
    assert args.data_root == str(image_folder) and args.work_dir == str(folder)
    config = load_config(args.config, args, "", ())
    config.pop("synthetic_data")  # --data-root does
    config.train_dataloader.dataset.data_root = args.data_root
    assert config_fingerprint(config.to_dict())[0] == config_fingerprint(run.config)[0]


DATA = dict(source="folder", options={}, root="mine", train_split="train", test_split="val", limit=None)
BARE = dict(encoder=dict(type="resnet18", stem="small"), meta={})
PRETRAINED = dict(encoder=dict(type="resnet18"), meta={"rule": "loco"})
ADAM = dict(name="adam", epochs=20, batch_size=64, lr=0.001, weight_decay=1e-6, image_size=32)


@pytest.mark.parametrize(("record", "expected"), [
    (dict(kind="linear_adam", encoder=BARE, data=DATA | dict(limit=100), seed=2, protocol=ADAM | dict(autocast="bfloat16")),
     dict(protocol="adam", encoder="resnet18", encoder_options=dict(stem="small"), data_root="/images/mine", limit=100,
          seed=2, epochs=20, batch_size=64, lr=0.001, weight_decay=1e-6, image_size=32, autocast="bfloat16")),
    (dict(kind="knn", encoder=PRETRAINED, data=DATA | dict(root="other", options=dict(file="my-list.txt")), seed=0,
          protocol=dict(name="knn", k=20, temperature=0.1, image_size=64)),
     dict(encoder=None, data="folder", data_options=dict(file="my-list.txt"), data_root="DATA/other", k=20, temperature=0.1,
          image_size=64)),
    (dict(kind="analysis_probes", encoder=PRETRAINED, data=DATA, seed=1, image_size=32,
          protocol=dict(name="adam", epochs=7, batch_size=8, lr=0.001)),
     dict(what="probes", protocol="adam", epochs=7, batch_size=8, image_size=32, seed=1, test_split="val")),
    (dict(kind="analysis_spectrum", encoder=PRETRAINED, seed=1, image_size=32,
          data=dict(source="folder", options={}, root="mine", split="val", limit=500), protocol=dict(points="blocks")),
     dict(what="spectrum", points="blocks", split="val", limit=500, image_size=32, seed=1, data_root="/images/mine")),
    (dict(kind="analysis_memory", encoder=BARE, batch_size=8, image_size=32),
     dict(what="memory", batch_size=8, image_size=32, encoder="resnet18")),
], ids=["adam", "knn", "probes", "spectrum", "memory"])
def test_the_command_of_a_readout_has_its_options(record, expected):
    """What the tool's parser makes of the command are the options that the record tells."""
    line, notes = record_command(record, "x.pth", {"mine": "/images/mine"})
    _, tool, *arguments = shlex.split(line)
    parser = argparse.ArgumentParser()
    if tool == "tools/analyze.py":
        add_analysis_arguments(parser)
    else:
        add_readout_arguments(parser)
        for name, kind in dict(protocol=str, epochs=int, lr=float, weight_decay=float, k=int, temperature=float).items():
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind)
    found = vars(parser.parse_args(arguments))
    assert {name: found[name] for name in expected} == expected
    assert bool(notes) == ("DATA" in str(expected.get("data_root")))


def test_logs_tell_duration_machine_and_config(tmp_path, image_folder):
    """Sessions are added up; a log that was cut off within a line still tells what it has."""
    folder = write_pretraining(tmp_path / "run", "simclr", image_folder, epochs=1)
    second = folder / "20260102_000000"
    second.mkdir()
    (second / "20260102_000000.log").write_text("2026/01/02 00:00:00 - mmengine - INFO - go on\n"
                                                "2026/01/02 00:00:30 - mmengine - INFO - Epo")
    logs = read_run_logs(folder)
    assert logs.seconds == 150 + 30
    assert read_run_logs(tmp_path).seconds is None
    assert logs.config["config_file"] == "configs/pretrain/simclr_resnet18_demo.py"
    assert logs.config["train_dataloader"]["dataset"]["data_root"] == str(image_folder)
    shutil.rmtree(second)
    assert read_run_logs(folder).environment == {
        "platform": "linux", "Python": "3.11.7", "PyTorch": "2.12.1", "GPU": "NVIDIA X100 (GPU 0,1)"}


def test_a_dumped_config_is_not_executed(tmp_path):
    """Whatever code it holds: it is read as data, or not at all."""
    file = tmp_path / "1" / "vis_data" / "config.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"a = dict(b=[1, (2.5, None)], c={{'d': True}})\n\nopen({str(tmp_path / 'made')!r}, 'w')\n")
    assert read_run_logs(tmp_path).config == {"a": {"b": [1, (2.5, None)], "c": {"d": True}}}
    file.write_text(f"a = open({str(tmp_path / 'made')!r}, 'w')\n")
    assert read_run_logs(tmp_path).config == {}
    assert not (tmp_path / "made").exists()


def test_names_are_escaped(tmp_path, synthetic_root):
    """Folders and data sets may be called anything: in the page they are text, copied they are what they were."""
    name = "<script>alert('x')</script>&|"
    write_detection(tmp_path / "<i>run" / "1", demo_run("random", [5.0, 6.0]), synthetic_root)
    results = tmp_path / "<i>run" / "1" / "results.json"
    results.write_text(results.read_text().replace('"dataset": "demo"', f'"dataset": "{name}"'))
    text = written(tmp_path)
    assert "<i>" not in text and "alert('x')" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;| AP<sup>bb</sup>" in text
    assert "&lt;i&gt;run" in text


def test_the_legend_above_a_table_is_shown():
    """Its headings are numbered where they would be long; lines above say what they mean."""
    table = plain_table("accuracy", ["K", "CIFAR-10 (1)"], [["4", "45.8"]])
    assert table.legend == []
    legend = "- CIFAR-10 (1): linear | Adam\n- CIFAR-10 (2): kNN\n\n"
    with_legend = replace(table, markdown=legend + table.markdown)
    assert with_legend.legend == ["CIFAR-10 (1): linear | Adam", "CIFAR-10 (2): kNN"]
    assert (with_legend.header, with_legend.rows) == (table.header, table.rows)


def test_tables_survive_the_way_through_markdown():
    """What is shown is read from the Markdown that is copied: cells with pipes, headings over rows, missing values."""
    table = plain_table("t", ["a|b", "n"], [["x|y", "1.5 ± 0.1 (-3.2)"], ["", ""]])
    assert table.header == ["a|b", "n"] and [row.cells for row in table.rows] == [["x|y", "1.5 ± 0.1 (-3.2)"], ["–", "–"]]
    assert r"a|b & n \\" in table.latex and r"x|y & 1.5 ± 0.1 (-3.2) \\" in table.latex
    headed = Table("t", "| a | b |\n| --- | ---: |\n| **100 epochs** |  |\n| r | 2 |\n", "")
    assert [(row.heading, row.cells) for row in headed.rows] == [("100 epochs", ["**100 epochs**", ""]), (None, ["r", "2"])]


@pytest.mark.parametrize(("cell", "number"), [
    ("1.5 ± 0.1", 1.5), ("-3%", -3), ("12.0 (+1.0)", 12), ("64×10×10", 64), ("1.31 G", 1.31e9), ("349 M", 349e6),
    ("133 MB", 133e6), ("2 KiB", 2048), ("5 of 5", 1), ("100 of 800 epochs", 0.125), ("0 of 0", 0), ("5 min 03 s", 5),
    ("06228e2072", None), ("2026-01-01", None), ("", None), ("loco", None)])
def test_the_number_that_a_cell_is_sorted_by(cell, number):
    """Prefixes of units are resolved, progress is a share; hashes and dates are no numbers."""
    assert sort_number(cell) == (None if number is None else pytest.approx(number))


def test_columns_of_numbers():
    """Those of which every cell that is not missing begins with a number."""
    rows = [["1.5 ± 0.1", "06228e2072", "5 of 5", "2026-01-01"], ["-3%", "11", "", "7"]]
    table = plain_table("t", ["a", "b", "c", "d"], rows)
    assert numeric_columns(table) == [True, False, True, False]


@pytest.mark.parametrize(("seconds", "text"), [
    (None, ""), (0.4, "0 s"), (99.4, "99 s"), (100, "1 min 40 s"), (3599.6, "60 min 00 s"), (11_100, "3 h 05 min")])
def test_durations(seconds, text):
    """Two units at most."""
    assert spelled_seconds(seconds) == text


def test_the_tool_prints_the_path(tmp_path, synthetic_root, run_tool):
    """The file's path alone goes to stdout; folders without runs and places that are none are one line and exit code 2."""
    write_detection(tmp_path / "run", demo_run("random", [5.0, 6.0]), synthetic_root)
    out = tmp_path / "new" / "report.html"
    finished = run_tool("report", tmp_path / "run", "-o", out, "--gallery", "0")
    assert (finished.returncode, finished.stdout) == (0, f"{out}\n"), finished.stderr
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run_tool("report", tmp_path / "empty", "-o", out), tmp_path / "empty", "tools/train_det.py")


@pytest.mark.parametrize(("directory", "out", "message"), [
    ("nowhere", "report.html", "nowhere is not a folder"), ("run", "run", "run is a folder; name the file to write")])
def test_bad_places(tmp_path, directory, out, message):
    """What does not exist, and what cannot be written, is said with its name."""
    (tmp_path / "run").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        render.write_report([tmp_path / directory], tmp_path / out)


def test_the_demos_table_outlives_its_report(tmp_path, synthetic_root):
    """A report that cannot be made is one line of the demo's summary; one that can is told by its path."""
    line = _report_line(tmp_path)
    assert line.startswith("Report: not written, ValueError: nothing to report below") and "\n" not in line
    write_detection(tmp_path / "run", demo_run("random", [], requested=1), synthetic_root)
    assert _report_line(tmp_path) == f"Report: {tmp_path / 'report.html'}"
    assert (tmp_path / "report.html").is_file()


def test_finished_runs_are_told(tmp_path, image_folder):
    """State, method, and what was run on what, in words."""
    run = read_run(write_pretraining(tmp_path / "a", "loco", image_folder))
    assert (run.state, run.method, run.progress, run.seconds) == (FINISHED, "LoCo", "5 of 5 epochs", 150)
    facts = dict(run.facts)
    assert facts["images"] == str(image_folder) and facts["views"] == "40 px" and facts["encoder"] == "resnet18"
