"""The report of a small experiment: all that is in it, what is missing, escaping, and damaged records."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser

import pytest

from loco_det.demo import _report_line
from loco_det.report.render import write_report
from loco_det.report.runs import FAILED, FINISHED, UNFINISHED, options_text, read_inputs
from loco_det.report.sections import make_report
from pretrain.results.formats import PLAIN, lines
from pretrain.results.table import results_table
from tests.conftest import assert_one_line_error
from tests.loco_det.detection_runs import identity, write_run
from tests.loco_det.report.experiment import demo_identity, edit, write_detection, write_experiment, write_pretraining

pytestmark = pytest.mark.repository

TRACEBACK = "Traceback (most recent call last):\n  File x\nRuntimeError: <b>out of memory</b>\n"
HOSTILE = "</pre><script>boom('x')</script>\"'&| 🦊"


class Page(HTMLParser):
    """A page's tags, links, identifiers, images and text; what is opened must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.ids, self.images, self.open, self.text = [], [], [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.images += [attributes] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def titles(report):
    return [block.title for section in report.sections for block in (*section.tables, *section.pictures)]


@pytest.mark.slow
def test_everything_of_an_experiment_is_there(tmp_path, synthetic_root):
    """All tables, figures and commands, in a page that needs nothing else, and nothing that lies in a folder is executed."""
    folder, mark = write_experiment(tmp_path / "small", synthetic_root), tmp_path / "executed"
    for place in [path for path in folder.rglob("*") if path.is_dir()]:
        for name in ("config.py", "20990101_000000.py", "conftest.py"):
            (place / name).write_text(f"open({str(mark)!r}, 'w')\n")
    report = make_report([folder], gallery=1)
    assert report.missing == []
    assert titles(report) == [
        "Runs", "Evaluations and analyses", "All results", "All results, after every stage", "AP by class", "Every split",
        "AP of every method, with its deviation over the splits",
        "Learning rules: blocks, units, heads, and how far down each gradient flows", "Training loss of every unit",
        "Accuracy", "Learning rate", "Throughput", "Ground truth and predictions on demo"]
    text = write_report([folder], tmp_path / "report.html", gallery=1).read_text(encoding="utf-8")
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids) and all(link[1:] in page.ids for link in page.links)
    assert len(page.images) == 7 and all(len(image["alt"]) > 30 for image in page.images)
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert not re.search(r"@import|url\(|https?://|<script|<link", text)
    for row in lines(results_table([folder])[0], PLAIN):
        assert all(cell in page.text for cell in row)
    assert f"python tools/train_det.py configs/mask_rcnn_loco_demo.py --work-dir {folder}/mask_rcnn_loco" in page.text
    assert "python tools/export_backbone.py" in page.text and not mark.exists()


def test_a_failed_split_is_shown_with_its_message(tmp_path, synthetic_root):
    """AP of the splits that there are, the failure and its traceback, escaped; it is listed under missing."""
    write_detection(tmp_path / "run", "random", [5.0], synthetic_root, 3, {1: TRACEBACK}, detector=False)
    (run,) = read_inputs([tmp_path]).runs
    assert (run.state, run.progress, run.seconds) == (FAILED, "1 of 3 splits", 60)
    text = write_report([tmp_path], tmp_path / "report.html", gallery=1).read_text(encoding="utf-8")
    assert "5.0 (1/3)" in text and "&lt;b&gt;out of memory" in text and "<b>out" not in text
    missing = make_report([tmp_path], gallery=1).missing
    assert {str(tmp_path / "run"), f"detections of {tmp_path / 'run'}"} <= {name for name, _ in missing}


def test_a_pretraining_that_stopped_half_way(tmp_path, image_folder):
    """How far it came, its curves, and that there are no results."""
    write_pretraining(tmp_path / "loco", "loco", image_folder, epochs=2, total=5)
    write_pretraining(tmp_path / "gim", "gim", image_folder, epochs=3, total=3)
    report = make_report([tmp_path], gallery=1)
    assert [(run.method, run.state, run.progress) for run in report.inputs.runs] == [
        ("GIM", FINISHED, "3 of 3 epochs"), ("LoCo", UNFINISHED, "2 of 5 epochs")]
    assert "Training loss of every unit" in titles(report)
    assert [name for name, _ in report.missing] == [str(tmp_path / "loco"), "results"]


def test_a_rule_that_is_not_known_leaves_the_others(tmp_path, image_folder):
    """Such as a user's own that is not registered here: it is named; the figure is of the rest."""
    folders = [write_pretraining(tmp_path / rule, rule, image_folder) for rule in ("gim", "loco")]
    method = json.loads((folders[0] / "run.json").read_text())["method"]
    edit(folders[0] / "run.json", method=method | dict(rule=dict(type="nonsense"), key="x", label="nonsense"))
    report = make_report([tmp_path], gallery=0)
    assert f"learning rule of {folders[0]}" in dict(report.missing)
    assert any(title.startswith("Learning rules") for title in titles(report))


DAMAGED = {"truncated": "{", "foreign": '{"config": 3}', "newer": '{"format": "loco-det-run", "version": 99}'}
WRONG = {"setting": dict(setting=3), "splits": dict(num_splits="x"), "rows": dict(rows=[3])}


def test_damaged_and_contradicting_records_are_named(tmp_path):
    """Each is listed under missing by its file; AP of the good run is there."""
    write_run(tmp_path / "good", identity("random"), [5.0, 6.0])
    for name, content in DAMAGED.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    for name, values in WRONG.items():
        edit(write_run(tmp_path / name, identity("gim"), []) / "run.json", **values)
    for name, bbox in (("a", [5.0]), ("b", [6.0])):
        write_run(tmp_path / name, identity("loco"), bbox)
    report = make_report([tmp_path], gallery=0)
    reasons = "\n".join(reason for _, reason in report.missing)
    assert all(str(tmp_path / name) in reasons for name in (*DAMAGED, *WRONG, "a", "b"))
    [general] = [table for section in report.sections for table in section.tables if table.title == "All results"]
    assert any("5.5 ± 0.7" in row for row in general.rows)


def test_published_numbers_stand_beside_ours(tmp_path):
    """Of the same method, encoder and epochs; rows without a number of ours are left out."""
    write_run(tmp_path / "a", identity("loco", 100), [5.0, 6.0], dataset="coco")
    tables = {table.title: table for table in make_report([tmp_path], gallery=0).sections[1].tables}
    [published] = [table for title, table in tables.items() if "published" in title]
    assert len(published.rows) == 1 and any("5.5" in cell for cell in published.rows[0])
    splits = tables["Every split"]
    assert [row[3] for row in splits.rows] == ["0", "1"] and "bbox_AP50" in splits.header


def test_names_are_escaped(tmp_path, synthetic_root):
    """Names of methods, classes, data sets, folders and files, and messages: nothing of them becomes an element."""
    parent = tmp_path / HOSTILE.replace("/", "\\")
    own = demo_identity("loco", model__method_name=HOSTILE)
    write_detection(parent / os.fsdecode(b"run\xff"), "random", [5.0], synthetic_root, dataset=HOSTILE, detector=False,
                    by_class={HOSTILE: 1.0}, requested=2, errors={1: f"Traceback\n{HOSTILE}\n"}, identity=own)
    page = Page(write_report([parent], tmp_path / "report.html", gallery=0).read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) > 5 and parent.name in page.text and r"run\udcff" in page.text


@pytest.mark.parametrize(("value", "text"), [
    (None, ""),
    (dict(type="AdamW", lr=0.1, betas=[0.9, 0.99]), "AdamW (lr=0.1, betas=[0.9, 0.99])"),
    ([dict(type="LinearLR", end=1), dict(type="Cosine")], "LinearLR (end=1); Cosine"),
])
def test_options_in_words(value, text):
    """The type first, nested ones by dotted names."""
    assert options_text(value) == text


def test_the_tool_prints_the_path(tmp_path, run_tool):
    """The file's path alone goes to stdout; folders without runs are one line on stderr."""
    write_run(tmp_path / "run", identity("random"), [], requested=1)
    out = tmp_path / "report.html"
    finished = run_tool("report", tmp_path / "run", "--out", out, "--gallery", "0")
    assert (finished.returncode, finished.stdout) == (0, f"{out}\n"), finished.stderr
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run_tool("report", tmp_path / "empty", "--out", out), tmp_path / "empty")


def test_the_demos_table_outlives_its_report(tmp_path):
    """A report that cannot be made is one line of the demo's summary; of one that can it is the path."""
    line = _report_line(tmp_path)
    assert line.startswith("Report: not written") and "\n" not in line
    write_run(tmp_path / "run", identity("random"), [], requested=1)
    assert _report_line(tmp_path) == f"Report: {tmp_path / 'report.html'}"
