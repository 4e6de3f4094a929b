"""``tools/make_splits.py`` as a user calls it."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.conftest import assert_one_line_error


@pytest.mark.slow
def test_round_trip(run_tool, tmp_path):
    """The files say what the definition in loco_det.datasets.splits says, transcribed here; again changes nothing; another
    size, more images than there are, and a file in the place of the folder are refused."""
    ids = list(range(300, 0, -3))
    ann_file, out = tmp_path / "ann.json", tmp_path / "out"
    ann_file.write_text(json.dumps({"images": [{"id": i} for i in ids]}))
    arguments = ("make_splits", "--ann", ann_file, "--splits", 2, "--seed", 7, "--out", out)
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
    assert_one_line_error(run_tool(*arguments, "--size", 30), files[0], "exists with other content")
    assert_one_line_error(run_tool(*arguments, "--size", 101), "only 100 images")
    assert_one_line_error(run_tool("make_splits", "--ann", ann_file, "--size", 20, "--out", ann_file), ann_file)
