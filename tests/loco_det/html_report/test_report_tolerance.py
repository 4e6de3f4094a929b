"""One file, run or name that is not as it should be costs a report no more than itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from loco_det.html_report.blocks import Commands, Section, Table, shown_path
from loco_det.html_report.contents import _filled
from loco_det.html_report.detection_sections import _drawable, detection
from loco_det.html_report.features_section import features
from loco_det.html_report.figures import draw
from loco_det.html_report.material import gather
from loco_det.html_report.pretraining_sections import _rules, pretraining, readouts
from loco_det.html_report.render import write_report
from loco_det.html_report.reproduction import reproduction
from loco_det.html_report.runs import FINISHED, UNFINISHED, find_runs, read_run
from loco_det.html_report.step_logs import last_error
from tests.conftest import ROOT
from tests.loco_det.html_report.experiment import demo_run, write_detection, write_encoder, write_pretraining
from tests.pretrain.readout.written import record_of_config, write_result

META = record_of_config("pretrain/loco_resnet18_demo.py")


def write_readout(work_dir: Path, **options) -> Path:
    folder = work_dir / "epoch_5.readout"
    folder.mkdir(parents=True, exist_ok=True)
    write_result(folder / "linear_cifar10.json", 40.0, META, file="epoch_5.pth", **options)
    return folder / "linear_cifar10.json"


def edit(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_section_that_breaks_costs_no_other():
    """Whatever its builder raises stands in it as missing, below what it had."""
    def fill(section):
        section.add_missing("First", "so")
        raise TypeError("'<' not supported")

    section = _filled(Section("here", "Here"), fill)
    assert [(part.title, part.reason) for part in section.missing] == [
        ("First", "so"), ("Here", "TypeError: '<' not supported")]


@pytest.mark.slow
def test_damaged_logs_and_readouts(tmp_path, image_folder):
    """A record without an iteration and readouts that are none of ours: the curves and the other readout's table stand."""
    run = write_pretraining(tmp_path / "run", "loco", image_folder, epochs=2)
    with open(next(run.glob("*/vis_data/scalars.json")), "a") as log:
        log.write('{"loss": 1.0, "iter": null, "epoch": null}\n')
    good = write_readout(run)
    bad = tmp_path / "x.readout"
    bad.mkdir()
    (bad / "linear.json").write_text('{"kind": "linear", "encoder": "loco.pth"}')
    (bad / "spectrum.json").write_text('{"kind": "analysis_spectrum", "encoder": "loco.pth"}')
    (bad / "knn.json").write_text("{")
    material = gather([tmp_path])
    readout, pretrained = (_filled(Section("here", "Here"), fill, material) for fill in (readouts, pretraining))
    reasons = [part.reason for part in readout.missing]
    assert len(reasons) == 3 and all(any(str(bad / name) in reason for reason in reasons)
                                     for name in ("linear.json", "spectrum.json", "knn.json"))
    tables = [block for block in readout.blocks if isinstance(block, Table)]
    assert "40.0" in tables[0].markdown and shown_path(good) in tables[0].command
    assert "Training loss of every unit" in [block.title for block in pretrained.blocks]
    assert len(material.records) == 1


@pytest.mark.slow
def test_two_runs_of_one_kind_and_a_detector_that_is_gone(tmp_path, synthetic_root):
    """AP of the run of more splits, every split of both, and detections of those that have a checkpoint."""
    folders = [tmp_path / name for name in "abc"]
    for folder, run in zip(folders, [demo_run("random", [5.0], 2), demo_run("random", [6.0, 7.0]), demo_run("gim", [1.0])],
                           strict=True):
        write_detection(folder, run, synthetic_root)
    for file in (tmp_path / "c").glob("split_0/*.pth"):
        file.unlink()
    material = gather([tmp_path])
    section = _filled(Section("here", "Here"), detection, material)
    ap, bars, splits = [block for block in section.blocks if block.kind != "missing"]
    assert "6.5 ± 0.7" in ap.markdown and bars.kind == "figure"
    (left_out,) = section.missing
    assert left_out.reason.startswith(f"{folders[0]} is left out of tables and bars") and str(folders[1]) in left_out.reason
    column = splits.header.index("Folder")
    assert [row.cells[column] for row in splits.rows] == [str(folders[index]) for index in (0, 1, 1, 2)]
    drawn, (gone,) = _drawable(material.results, 0, None)
    assert [run.source.parent for run in drawn] == folders[:2]
    assert str(folders[2]) in gone.title and "has no checkpoint" in gone.reason


@pytest.mark.slow
def test_a_rule_that_cannot_be_read_leaves_the_others(tmp_path, image_folder):
    """It is named with its reason; the figure is of the rest."""
    folders = [write_pretraining(tmp_path / rule, rule, image_folder) for rule in ("gim", "loco")]
    config = json.loads((folders[0] / "run.json").read_text())["config"]
    edit(folders[0] / "run.json", config=config | {"model": config["model"] | {"rule": "nonsense"}})
    missing, figure = _rules(find_runs([tmp_path])[::-1])
    assert str(folders[0]) in missing.title and "nonsense" in missing.reason
    assert figure.command.endswith(f"units {folders[1]}")


def test_progress_without_checkpoints(tmp_path, image_folder):
    """Logged epochs count where checkpoints were deleted; only what has one is told to be resumable."""
    done = write_pretraining(tmp_path / "done", "loco", image_folder, epochs=3, total=3)
    half = write_pretraining(tmp_path / "half", "gim", image_folder, epochs=2, total=3)
    behind = write_pretraining(tmp_path / "behind", "simclr", image_folder, epochs=2, total=3)
    for file in [*done.glob("*.pth"), *half.glob("*.pth"), behind / "epoch_2.pth"]:
        file.unlink()
    told = {run.name: (run.state, run.progress) for run in find_runs([tmp_path])}
    assert told == {"done": (FINISHED, "all 3 epochs logged, checkpoint not here"),
                    "half": (UNFINISHED, "2 of 3 epochs logged, checkpoint not here"),
                    "behind": (UNFINISHED, "2 of 3 epochs logged, last checkpoint of epoch 1")}
    section = Section("here", "Here")
    reproduction(section, gather([tmp_path]))
    resumable = [block.title for block in section.blocks if any("--resume" in note for note in block.notes)]
    assert len(resumable) == 1 and resumable[0].startswith("behind")


def test_commands_follow_their_own_checkout(tmp_path, image_folder):
    """Runs and a readout of three revisions and of an unknown one: the source changes right before what needs it."""
    for name, rule, revision in (("a", "simclr", "1" * 40), ("b", "gim", "2" * 40 + "-dirty"), ("c", "loco", None)):
        edit(write_pretraining(tmp_path / name, rule, image_folder) / "run.json", git_revision=revision)
    edit(write_readout(tmp_path / "a"), git_revision="3" * 40)
    section = Section("here", "Here")
    reproduction(section, gather([tmp_path]))
    blocks = [block for block in section.blocks if isinstance(block, Commands)]
    shown = [line if line.startswith("git") else block.title.partition(":")[0].rpartition("/")[2]
             for block in blocks for line in block.lines]
    assert shown == ["c", f"git checkout {'1' * 40}", "a", f"git checkout {'2' * 40}", "b", f"git checkout {'3' * 40}",
                     "linear_cifar10.json"]
    assert blocks[0].notes[-1] == "its source revision was not recorded"
    assert list(blocks[3].notes) == ["the source tree had changes that are in no commit"]


def test_a_folder_whose_name_is_no_text(tmp_path, synthetic_root):
    """Bytes that are no UTF-8 are spelled out; the report is written."""
    folder = tmp_path / os.fsdecode(b"run\xff")
    write_detection(tmp_path / "run", demo_run("random", [], requested=1), synthetic_root).rename(folder)
    text = write_report([folder], tmp_path / "report.html", gallery=0).read_text(encoding="utf-8")
    assert r"run\udcff" in text


@pytest.mark.parametrize(("log", "message"), [
    ("a\nTraceback (most recent call last):\n  File x\nValueError: no\n", "ValueError: no"),
    ("RuntimeError: CUDA error\nFor debugging consider this\n  and that\n[W] a warning\n", "RuntimeError: CUDA error"),
    ("OSError: try again\n2026/01/01 12:00:00 - mmengine - INFO - Epoch(train) [1]\n", ""),
    ("OSError: try again\n" + "on it goes\n" * 20, ""),
    ("error: loss is nan\n", "error: loss is nan"), ("", "")])
def test_a_log_that_ends_in_an_error(tmp_path, log, message):
    """An error after which the run went on is none."""
    (tmp_path / "step.log").write_text(log)
    assert last_error(tmp_path / "step.log")[0] == message
    assert last_error(tmp_path / "none.log") == ("", "")


def test_paths_are_those_of_the_projects_root(tmp_path, monkeypatch):
    """Wherever the report is written from, commands name files as they are typed in the root."""
    monkeypatch.chdir(tmp_path)
    assert shown_path(ROOT / "configs") == "configs"
    assert shown_path("run") == str(tmp_path / "run")
    (figure,) = draw("units", [ROOT / "configs/pretrain/loco_resnet18_demo.py"])
    assert figure.command.endswith("tools/visualize.py units configs/pretrain/loco_resnet18_demo.py")


def test_features_need_validation_objects(tmp_path, image_folder, synthetic_root):
    """Without a detection experiment, and without its data, the page says so; a checkpoint that is none is named."""
    write_pretraining(tmp_path / "runs" / "loco", "loco", image_folder)
    def reasons(data_root=None):
        section = Section("here", "Here")
        features(section, gather([tmp_path / "runs"]), data_root)
        return [part.reason for part in section.missing]

    assert "no detection experiment was found" in reasons()[0]
    write_detection(tmp_path / "runs" / "mask_rcnn", demo_run("random", [5.0]), synthetic_root)
    assert f"{tmp_path / 'gone'}/annotations/instances_val2017.json is not there" in reasons(tmp_path / "gone")[0]
    damaged, nothing = reasons()
    assert "epoch_5.pth" in damaged and nothing.startswith("no checkpoint of a finished pretraining")


@pytest.mark.slow
def test_features_of_readable_encoders(tmp_path, image_folder, synthetic_root):
    """A damaged checkpoint leaves the map to the others, beside random weights."""
    write_pretraining(tmp_path / "gim", "gim", image_folder)
    write_encoder(write_pretraining(tmp_path / "loco", "loco", image_folder) / "epoch_5.pth", META)
    write_detection(tmp_path / "mask_rcnn", demo_run("random", [5.0]), synthetic_root)
    assert read_run(tmp_path / "loco").state == FINISHED
    section = Section("here", "Here")
    features(section, gather([tmp_path]), None)
    assert [block.kind for block in section.blocks] == ["missing", "figure"], section.missing
    missing, figure = section.blocks
    assert missing.title == f"t-SNE of {tmp_path / 'gim' / 'epoch_5.pth'}"
    assert figure.command.endswith(f"embed {tmp_path / 'loco' / 'epoch_5.pth'} random --data coco_objects --data-root "
                                   f"{synthetic_root} --num 200 --workers 0")
