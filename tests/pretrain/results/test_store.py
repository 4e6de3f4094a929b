"""Records: written, found in folders, read into one frame; what is damaged costs itself only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pretrain.results.files import FORMAT, RecordError
from pretrain.results.store import (
    DETECTION,
    PRETRAINING,
    find_records,
    measurement,
    new_record,
    read_record,
    read_rows,
    tidy,
    write_record,
)
from tests.pretrain.results.made import identity, write_detection, write_evaluation


def test_a_record_says_what_how_and_where(tmp_path):
    """Command line, revision, versions, machine, start; it comes back as it was written."""
    rows = [measurement("x", PRETRAINING, "loss", 1.5, stage="res2")]
    record = new_record(PRETRAINING, identity(), {"name": PRETRAINING}, rows)
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json").content == record
    assert record["argv"] and record["versions"].keys() >= {"loco-det", "torch"} and "core" in record["machine"]
    assert record["started"].endswith("Z")


def test_every_kind_is_found_in_one_frame(tmp_path):
    """One row a measurement, with identity, protocol and place; nothing else in a folder is looked at."""
    write_detection(tmp_path / "det", identity("loco", seed=3), {"bbox_AP": [20.0, 21.0], "segm_AP": [18.0, 19.0]})
    write_evaluation(tmp_path / "loco.eval" / "linear.json", identity("loco", seed=3), 65.0)
    (tmp_path / "annotations.json").write_text('{"images": []}')
    frame, records, warnings = read_rows([tmp_path])
    assert (len(records), warnings) == (4, [])
    found = frame[frame["metric"] == "segm_AP"][["method", "seed", "split", "dataset", "value"]].values.tolist()
    assert found == [["LoCo", 3, 0, "coco10k", 18.0], ["LoCo", 3, 1, "coco10k", 19.0]]
    stages = frame[frame["metric"] == "top1"]
    assert stages["stage"].tolist() == ["res2", "res3", "res4", "res5"]
    assert stages[stages["last_stage"]]["stage"].tolist() == ["res5"]
    flat = tidy(frame)
    assert set(flat["setting.batch_size"]) == {4096} and "protocol.train_cfg.max_iters" in flat


def test_unfinished_splits_have_rows_without_a_value(tmp_path):
    """So that (n/N) is a count; with no split finished, too."""
    write_detection(tmp_path / "a", identity("loco"), {"bbox_AP": [20.0]}, num_splits=3)
    write_detection(tmp_path / "b", identity("gim"), {"bbox_AP": []}, num_splits=2)
    frame, _, _ = read_rows([tmp_path])
    counts = frame.groupby("method")["value"].agg(["count", "size"]).to_dict("index")
    assert counts == {"LoCo": {"count": 1, "size": 3}, "GIM": {"count": 0, "size": 2}}


def test_splits_of_one_experiment_in_two_folders_complete_each_other(tmp_path):
    """Run on two machines and put together."""
    for name, split in (("a", 0), ("b", 1)):
        folder = write_detection(tmp_path / name, identity("loco"), {"bbox_AP": [20.0, 21.0]})
        (folder / f"split_{1 - split}" / "run.json").unlink()
    frame, _, warnings = read_rows([tmp_path])
    assert (sorted(frame["value"]), warnings) == ([20.0, 21.0], [])


def test_copies_count_once_and_contradictions_not_at_all(tmp_path):
    """Two records that claim the same repetition with different numbers: both are named, the repetition has no value."""
    for name, accuracy in (("a", 60.0), ("copy", 60.0), ("other", 61.0)):
        write_evaluation(tmp_path / name / "x.json", identity("gim"), accuracy)
    frame, _, warnings = read_rows([tmp_path / "a", tmp_path / "copy"])
    assert (len(frame), warnings) == (4, [])
    frame, _, warnings = read_rows([tmp_path])
    assert len(frame) == 4 and frame["value"].isna().all() and len(warnings) == 1
    assert str(tmp_path / "a" / "x.json") in warnings[0] and str(tmp_path / "other" / "x.json") in warnings[0]


@pytest.mark.parametrize("content", [
    b"{", b"[]", b"\xff\xfe\x00", json.dumps({"format": FORMAT, "version": 1}).encode(),
    json.dumps({"format": FORMAT, "version": 99}).encode(), json.dumps({"format": FORMAT, "version": None}).encode(),
    b'{"format": "loco-det-run", "version": 1, "kind": "evaluation", "method": {"key": "a", "label": "b"}, "setting": {}, '
    b'"repetition": {}, "protocol": {"name": "x"}, '
    b'"rows": [{"dataset": "x", "protocol": "x", "metric": "m", "value": "=1"}]}',
    *(json.dumps({**new_record(DETECTION, identity("gim"), {"name": "detection"}, dataset="coco", tasks=["bbox"],
                               num_splits=1), **damage}).encode()
      for damage in (dict(num_splits="five"), dict(tasks=None), dict(repetition={"seed": [0]}),
                     dict(setting={"encoder": {}}), dict(method={"key": "a", "label": "b"}),
                     dict(rows=[{"dataset": "coco", "value": 1.0}]),
                     dict(rows=[{"dataset": ["coco"], "protocol": "detection", "metric": "AP", "value": 1.0}]))),
])
def test_a_damaged_foreign_or_newer_record_costs_itself_only(tmp_path, content):
    """It is named in a warning; given by itself it is an error."""
    write_evaluation(tmp_path / "good.json", identity("gim"), 60.0)
    (tmp_path / "run.json").write_bytes(content)
    records, warnings = find_records([tmp_path])
    assert [record.path.name for record in records] == ["good.json"]
    assert len(warnings) == 1 and str(tmp_path / "run.json") in warnings[0]
    with pytest.raises(RecordError, match="run.json"):
        find_records([tmp_path / "run.json"])


def test_what_is_not_a_file_is_skipped(tmp_path):
    """A named pipe would wait for a writer for ever; a link that leads nowhere is none either."""
    os.mkfifo(tmp_path / "run.json")
    (tmp_path / "x.json").symlink_to(tmp_path / "missing.json")
    write_evaluation(tmp_path / "good.json", identity("gim"), 60.0)
    assert len(find_records([tmp_path])[0]) == 1


@pytest.mark.parametrize("path", ["missing", "."])
def test_folders_without_results(tmp_path, monkeypatch, path):
    """A folder that does not exist, and one without records."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match=path):
        read_rows([Path(path)])
