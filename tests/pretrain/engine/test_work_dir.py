"""A work directory belongs to one config."""

from __future__ import annotations

import json

import pytest

from pretrain.engine.work_dir import check_writable, config_fingerprint, init_work_dir, write_json

CONFIG = dict(model=dict(rule="loco", units=(0, 3)), work_dir="a", launcher="none")
RECORD = dict(kind="pretraining", rows=[])


def test_the_same_config_may_come_back(tmp_path):
    """How a run is carried out does not matter, tuple or list does not either."""
    first = init_work_dir(tmp_path / "w", CONFIG, RECORD)
    again = dict(CONFIG, model=dict(rule="loco", units=[0, 3]), work_dir="b", launcher="slurm")
    assert init_work_dir(tmp_path / "w", again, RECORD) == first == config_fingerprint(CONFIG)[0]
    assert json.loads((tmp_path / "w" / "run.json").read_text())["config"]["model"] == {"rule": "loco", "units": [0, 3]}
    assert json.loads((tmp_path / "w" / "run.json").read_text())["kind"] == "pretraining"


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path):
    """Changed, added and removed keys, with dots."""
    init_work_dir(tmp_path, CONFIG, RECORD)
    with pytest.raises(ValueError, match=r"differing keys: lr, model.rule; choose another --work-dir"):
        init_work_dir(tmp_path, dict(CONFIG, model=dict(rule="gim", units=(0, 3)), lr=1), RECORD)


def test_a_damaged_record_is_named(tmp_path):
    """Not silently overwritten."""
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        init_work_dir(tmp_path, CONFIG, RECORD)


def test_json_is_standard_and_written_whole(tmp_path):
    """NaN is refused, and the old file survives the failure."""
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_place_is_tried_without_a_trace(tmp_path):
    """A folder, and one that could be made; neither below a file."""
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(ValueError, match="cannot write to .*file .Not a directory"):
            check_writable(folder)
