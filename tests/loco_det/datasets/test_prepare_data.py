"""``tools/prepare_data.py`` as a user calls it: what is on stdout, what on stderr, and exit codes."""

from __future__ import annotations

import hashlib
import json
import shutil

from tests.conftest import assert_one_line_error


def test_check_coco(run_tool, synthetic_root, tmp_path):
    """0 and the summary for a good set, 1 and the summary for one on which a run would fail."""
    good = run_tool("prepare_data", "check", "coco", "--data-root", synthetic_root, "--workers", 1)
    assert good.returncode == 0, good.stderr
    summary = json.loads(good.stdout)
    assert summary["usable"] and [file["counts"]["images"] for file in summary["files"]] == [24, 6]

    images = shutil.copytree(synthetic_root / "val2017", tmp_path / "images")
    next(images.iterdir()).unlink()
    ann_file = synthetic_root / "annotations/instances_val2017.json"
    bad = run_tool("prepare_data", "check", "coco", "--ann", ann_file, "--images", images, "--workers", 2)
    assert bad.returncode == 1, bad.stderr
    (file,) = json.loads(bad.stdout)["files"]
    assert file["annotations"] == str(ann_file) and file["images"] == str(images)
    assert [(p["severity"], p["count"]) for p in file["issues"]] == [("error", 1)]
    assert "error: images that are not in their folder: 1" in bad.stderr and "Traceback" not in bad.stderr


def test_wrong_arguments_are_one_line(run_tool, tmp_path):
    """Exit code 2: neither a data root nor a file, both, and a folder without Cityscapes."""
    assert_one_line_error(run_tool("prepare_data", "check", "coco"), "--data-root")
    assert_one_line_error(run_tool("prepare_data", "check", "coco", "--ann", "a.json"), "--images")
    assert_one_line_error(run_tool("prepare_data", "cityscapes", "--data-root", tmp_path), tmp_path)


def test_splits(run_tool, tmp_path):
    """The files say what the definition in loco_det.datasets.splits says, transcribed here; again changes nothing; another
    size, more images than there are, and a file in the place of the folder are refused."""
    ids = list(range(300, 0, -3))
    ann_file, out = tmp_path / "ann.json", tmp_path / "out"
    ann_file.write_text(json.dumps({"images": [{"id": i} for i in ids]}))
    arguments = ("prepare_data", "splits", "--ann", ann_file, "--splits", 2, "--seed", 7, "--out", out)
    finished = run_tool(*arguments, "--size", 20)
    assert finished.returncode == 0, finished.stderr
    files = [out / "split_0.json", out / "split_1.json"]
    assert finished.stdout.splitlines() == list(map(str, files))
    for seed, file in zip((7, 8), files, strict=True):
        chosen = sorted(sorted(ids, key=lambda i, seed=seed: hashlib.sha256(f"{seed}:{i}".encode()).digest())[:20])
        text = "".join(f"{i}\n" for i in chosen)
        expected = {"seed": seed, "sha256": hashlib.sha256(text.encode()).hexdigest(), "image_ids": chosen}
        assert json.loads(file.read_text()) == expected
    assert run_tool(*arguments, "--size", 20).stdout == finished.stdout
    assert_one_line_error(run_tool(*arguments, "--size", 30), files[0])
    assert_one_line_error(run_tool(*arguments, "--size", 101), "100 images")
