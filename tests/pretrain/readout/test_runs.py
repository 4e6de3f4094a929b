"""Readout results are found, read and checked."""

from __future__ import annotations

import json

import pytest

from pretrain.readout.published import SIMCLR
from pretrain.readout.runs import find_runs
from tests.pretrain.readout.written import pretraining_record, write_random, write_result


def test_find_runs(tmp_path):
    """Every result below a folder, sorted, each once; JSON and logs of other tools are passed over."""
    meta = pretraining_record(SIMCLR, encoder=dict(type="resnet50"))
    files = [write_result(tmp_path / name, 60.0, meta) for name in ("b/deep/result.json", "a/result.json")]
    (tmp_path / "a" / "run.json").write_text('{"config_sha256": "0"}')
    (tmp_path / "a" / "scalars.json").write_text('{"lr": 0.1}\n{"lr": 0.2}\n')
    for paths, expected in (([tmp_path, files[0]], files[::-1]), ([files[0], tmp_path], files)):
        runs, passed_over = find_runs(paths)
        assert [run.source for run in runs] == expected
        assert passed_over == []


@pytest.mark.parametrize("content", [b"", b'{"kind": "lin', b"\xff\xfe\x00"])
def test_what_cannot_be_decoded_in_folders_is_passed_over(tmp_path, content):
    """Another tool's in silence; beside results of ours, where it may be one, with a warning; alone, with an error."""
    result = write_random(tmp_path / "a.readout" / "linear.json", 50.0)
    foreign, ours = tmp_path / "vis_data" / "scalars.json", tmp_path / "a.readout" / "deep" / "knn.json"
    for file in (foreign, ours):
        file.parent.mkdir()
        file.write_bytes(content)
    for path in (tmp_path, ours.parents[1]):
        runs, passed_over = find_runs([path])
        assert [run.source for run in runs] == [result]
        (line,) = passed_over
        assert line.startswith(f"passed over: {ours} ")
    with pytest.raises(ValueError, match=f"no readout results below .*passed over: {ours}"):
        find_runs([ours.parent])
    for file in (foreign, ours):
        with pytest.raises(ValueError, match=f"^{file} "):
            find_runs([tmp_path, file])


@pytest.mark.parametrize("text, reason", [
    ('{"kind": "linear", "stages":', "is not JSON"),
    ("", "is not JSON"),
    ('{"AP": 1}', "no readout result"),
    ('[1, 2]', "no readout result"),
])
def test_unusable_files_are_named(tmp_path, text, reason):
    """A file that is no readout result is an error that names it and says why."""
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        find_runs([file])
    assert str(file) in str(error.value)


@pytest.mark.parametrize("damage, reason", [
    (lambda record: record["stages"]["res5"].update(top1=float("nan")), "top1 is nan"),
    (lambda record: record["stages"]["res5"].update(top1=101), "top1 is 101"),
    (lambda record: record["stages"]["res5"].update(top1=None), "top1 is None"),
    (lambda record: record["data"].pop("train_images"), "KeyError: 'train_images'"),
    (lambda record: record["encoder"].pop("encoder"), "KeyError: 'encoder'"),
    (lambda record: record.update(stages=[50.0]), "AttributeError"),
])
def test_damaged_results_are_named(tmp_path, damage, reason):
    """A result with an impossible accuracy, or without what tables need, is an error that names it and says why."""
    file = write_random(tmp_path / "result.json", 50.0)
    assert len(find_runs([file])[0]) == 1
    record = json.loads(file.read_text())
    damage(record)
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=reason) as error:
        find_runs([tmp_path])
    assert str(file) in str(error.value)
