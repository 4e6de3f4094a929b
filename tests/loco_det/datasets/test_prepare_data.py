"""``tools/prepare_data.py`` as a user calls it: what is on stdout, what on stderr, and exit codes."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.conftest import assert_one_line_error


@pytest.mark.slow
def test_check_coco(run_tool, synthetic_root, tmp_path):
    """0 and the summary for a good set, 1 and the summary for one on which a run would fail."""
    good = run_tool("prepare_data", "check", "coco", "--data-root", synthetic_root, "--workers", 1)
    assert good.returncode == 0, good.stderr
    summary = json.loads(good.stdout)
    assert summary["usable"] and [file["counts"]["images"] for file in summary["files"]] == [24, 6]
    assert "24 images" in good.stderr and "warning: sets that do not have the official 118,287 images" in good.stderr

    images = shutil.copytree(synthetic_root / "val2017", tmp_path / "images")
    next(images.iterdir()).unlink()
    ann_file = synthetic_root / "annotations/instances_val2017.json"
    bad = run_tool("prepare_data", "check", "coco", "--ann", ann_file, "--images", images, "--workers", 1)
    assert bad.returncode == 1, bad.stderr
    (file,) = json.loads(bad.stdout)["files"]
    assert file["annotations"] == str(ann_file) and file["images"] == str(images)
    assert [(p["problem"], p["count"]) for p in file["findings"] if p["severity"] == "error"] == [
        ("images that are not in their folder", 1)]
    assert "error: images that are not in their folder: 1" in bad.stderr
    assert "error: this data set is not fit for training" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.slow
def test_wrong_arguments_are_one_line(run_tool, tmp_path):
    """Exit code 2: neither a data root nor a file, both, and a folder without Cityscapes."""
    assert_one_line_error(run_tool("prepare_data", "check", "coco"), "give --data-root DIR")
    assert_one_line_error(run_tool("prepare_data", "check", "coco", "--ann", "a.json"), "--images DIR")
    finished = run_tool("prepare_data", "cityscapes", "--data-root", tmp_path)
    assert_one_line_error(finished, tmp_path, "https://www.cityscapes-dataset.com")
