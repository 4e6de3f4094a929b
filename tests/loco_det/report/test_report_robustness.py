"""One file, run or name that is not as it should be costs a report no more than itself, and nothing is executed."""

from __future__ import annotations

import json
import os

import pytest

from loco_det.report.blocks import Section, text_table
from loco_det.report.contents import filled, report_contents
from loco_det.report.detection_sections import _drawable
from loco_det.report.features_section import features
from loco_det.report.pretraining_sections import _rules, pretraining
from loco_det.report.render import write_report
from loco_det.report.runs import read_inputs
from pretrain.results.store import ANALYSIS, measurement, new_record, write_record
from tests.loco_det.detection_runs import identity, write_run
from tests.loco_det.report.experiment import (
    demo_identity,
    edit,
    write_detection,
    write_encoder,
    write_experiment,
    write_pretraining,
)


def test_a_section_that_breaks_costs_no_other(capsys):
    """Whatever its builder raises stands in it as missing, below what it had; only a user's mistake is not on stderr."""
    def half():
        yield text_table("t", ["a"], [["1"]])
        raise OSError("disk is\nfull")

    def fill(section):
        section.add("Half", half)
        raise TypeError("'<' not supported")

    section = filled(Section("here", "Here"), fill)
    assert [block.kind for block in section.blocks] == ["table", "missing", "missing"]
    assert [(part.title, part.reason, part.anchor) for part in section.missing] == [
        ("Half", "disk is full", "here-missing-1"), ("Here", "TypeError: '<' not supported", "here-missing-2")]
    assert "Here" in capsys.readouterr().err


DAMAGED = {  # content of a run.json that cannot be used
    "truncated": "{",
    "foreign": '{"config": 3}',
    "newer": '{"format": "loco-det-run", "version": 99}',
}
WRONG = {  # values of a record that are of the wrong type
    "setting": dict(setting=3), "encoder": dict(setting=dict(encoder=5)), "splits": dict(num_splits="x"),
    "rows": dict(rows=[3]), "method": dict(method=dict(key="a", label="b")),
}


def test_damaged_records_cost_nothing_but_themselves(tmp_path):
    """Each is listed under missing by its file; AP of the good run is there."""
    write_run(tmp_path / "good", identity("random"), [5.0, 6.0])
    for name, content in DAMAGED.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    for name, values in WRONG.items():
        edit(write_run(tmp_path / name, identity("loco"), []) / "run.json", **values)
    (tmp_path / "other.json").write_text('{"rows": []}')
    contents = report_contents([tmp_path], tmp_path / "report.html", gallery=0)
    reasons = "\n".join(part.reason for part in contents.missing)
    assert all(str(tmp_path / name) in reasons for name in (*DAMAGED, *WRONG)) and "other.json" not in reasons
    results = next(section for section in contents.sections if section.anchor == "results")
    assert "5.5 ± 0.7" in results.blocks[0].markdown
    assert [block.kind for block in results.blocks] == ["table", "table", "table", "figure"]


def test_records_that_contradict_each_other_are_named(tmp_path):
    """Two runs of one method, setting and seed with other numbers: neither is averaged, both paths are listed."""
    for name, bbox in (("a", [5.0]), ("b", [6.0])):
        write_run(tmp_path / name, identity("loco"), bbox)
    missing = report_contents([tmp_path], tmp_path / "report.html", gallery=0).missing
    assert any(f"{tmp_path}/a/" in part.reason and f"{tmp_path}/b/" in part.reason for part in missing)


@pytest.mark.slow
def test_damaged_logs_and_analyses(tmp_path, image_folder):
    """A line without an iteration and an analysis without its details: curves and the other analysis stand."""
    run = write_pretraining(tmp_path / "run", "loco", image_folder, epochs=2)
    with open(next(run.glob("*/vis_data/scalars.json")), "a") as log:
        log.write('{"loss": 1.0, "iter": null, "epoch": null}\n')
    rows = [measurement("cifar10", "probes", "top1", 50.0, stage="res2.1")]
    details = dict(blocks=[dict(block=0, name="res2.1", stage="res2", end_of_unit=True)])
    for name, content in (("good", dict(details=details)), ("bad", {})):
        record = new_record(ANALYSIS, demo_identity("loco"), dict(name="probes"), rows, **content)
        write_record(tmp_path / "epoch_2.readout" / f"{name}.json", record)
    contents = report_contents([tmp_path], tmp_path / "report.html", gallery=0)
    assert any(str(tmp_path / "epoch_2.readout" / "bad.json") in part.reason for part in contents.missing)
    titles = [block.title for section in contents.sections for block in section.blocks if block.kind == "figure"]
    assert {"Linear accuracy by depth", "Training loss of every unit"} <= set(titles)


@pytest.mark.slow
def test_a_detector_that_is_gone(tmp_path, synthetic_root):
    """Detections are of those that have a checkpoint; the others are named."""
    write_detection(tmp_path / "a", "random", [5.0], synthetic_root)
    write_detection(tmp_path / "b", "gim", [1.0], synthetic_root, detector=False)
    drawn, (gone,) = _drawable(read_inputs([tmp_path]).runs, 0, None)
    assert [run.path for run in drawn] == [tmp_path / "a"] and str(tmp_path / "b") in gone.title


@pytest.mark.slow
def test_a_rule_that_cannot_be_laid_out_leaves_the_others(tmp_path, image_folder):
    """Such as a user's own that is not registered here: it is named; the figure is of the rest, and so are the curves."""
    folders = [write_pretraining(tmp_path / rule, rule, image_folder) for rule in ("gim", "loco")]
    method = json.loads((folders[0] / "run.json").read_text())["method"]
    edit(folders[0] / "run.json", method=method | dict(rule=dict(type="nonsense"), key="x", label="nonsense"))
    inputs = read_inputs([tmp_path])
    missing, figure = _rules(inputs.runs[::-1])
    assert str(folders[0]) in missing.title and figure.command.endswith(f"units {folders[1]}")
    section = filled(Section("here", "Here"), pretraining, inputs)
    assert len(section.missing) == 1


def test_a_folder_whose_name_is_not_text(tmp_path):
    """Bytes that are not UTF-8 are written out; the report is written."""
    folder = tmp_path / os.fsdecode(b"run\xff")
    write_run(tmp_path / "run", identity("random"), [], requested=1).rename(folder)
    text = write_report([folder], tmp_path / "report.html", gallery=0).read_text(encoding="utf-8")
    assert r"run\udcff" in text


def test_features_need_validation_objects(tmp_path, image_folder, synthetic_root):
    """Without a detection experiment, and without its data, the page says so; a file that is not a checkpoint is named."""
    write_pretraining(tmp_path / "runs" / "loco", "loco", image_folder)

    def reasons(data_root=None):
        section = filled(Section("here", "Here"), features, read_inputs([tmp_path / "runs"]), data_root)
        return [part.reason for part in section.missing]

    assert "no detection experiment" in reasons()[0]
    write_detection(tmp_path / "runs" / "mask_rcnn", "random", [5.0], synthetic_root, detector=False)
    assert str(tmp_path / "gone") in reasons(tmp_path / "gone")[0]
    damaged, nothing = reasons()
    assert "epoch_5.pth" in damaged and "no checkpoint" in nothing


@pytest.mark.slow
def test_features_of_readable_encoders(tmp_path, image_folder, synthetic_root):
    """A damaged checkpoint leaves the map to the others, beside random weights."""
    write_pretraining(tmp_path / "gim", "gim", image_folder)
    write_encoder(write_pretraining(tmp_path / "loco", "loco", image_folder) / "epoch_5.pth", demo_identity("loco"))
    write_detection(tmp_path / "mask_rcnn", "random", [5.0], synthetic_root, detector=False)
    section = filled(Section("here", "Here"), features, read_inputs([tmp_path]), None)
    assert [block.kind for block in section.blocks] == ["missing", "figure"], section.missing
    missing, figure = section.blocks
    assert missing.title == f"t-SNE of {tmp_path / 'gim' / 'epoch_5.pth'}"
    assert figure.command == (f"python tools/visualize.py embed {tmp_path}/loco/epoch_5.pth random --data coco_objects "
                              f"--data-root {synthetic_root} --num 200 --workers 0")


@pytest.mark.slow
def test_nothing_in_a_work_directory_is_executed(tmp_path, synthetic_root):
    """Python files in every place that was once read, newer than all others, leave no mark; every figure is drawn."""
    folder, mark = write_experiment(tmp_path / "small", synthetic_root), tmp_path / "executed"
    places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    places += [path / "20990101_000000" / "vis_data" for path in places if (path / "run.json").exists()]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        for name in ("config.py", "20990101_000000.py", "conftest.py", "mask_rcnn_loco_demo.py"):
            (place / name).write_text(f"open({str(mark)!r}, 'w')\n")
    text = write_report([folder], tmp_path / "report.html", gallery=1).read_text(encoding="utf-8")
    assert not mark.exists()
    assert "Ground truth and predictions" in text and "Training loss of every unit" in text
