"""results.json: exact averages, a faithful round trip, and refusal of what is not a result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loco_det.evaluation.results import (
    METRICS,
    PretrainedBackbone,
    ResultsError,
    RunResults,
    SplitResult,
    mean_std,
)


def points(ap: float | None, small: float | None = 1.5) -> dict[str, float | None]:
    """A task's six metrics; only AP and APs matter to the tests."""
    return {"AP": ap, "AP50": 30.0, "AP75": 10.0, "APs": small, "APm": 5.0, "APl": None}


def split_result(bbox: float | None, segm: float | None, /, **changes: Any) -> SplitResult:
    """A split with the given box and mask AP."""
    values = dict(
        bbox=points(bbox),
        segm=points(segm, small=None),
        official=None,
        num_train_images=200,
        image_ids_sha256="ab" * 32,
        num_val_images=50,
        val_sha256="12" * 32,
        seed=0,
    )
    return SplitResult(**(values | changes))


def run_results(**changes: Any) -> RunResults:
    """Two of three splits of LoCo on COCO-10K."""
    values = dict(
        method="loco",
        dataset="coco10k",
        encoder="resnet50",
        config="configs/mask_rcnn_loco_coco10k.py",
        config_sha256="cd" * 32,
        pretrained=PretrainedBackbone("loco.pth", "ef" * 32, "loco", 100),
        requested_splits=[0, 1, 2],
        splits={1: split_result(14.0, 12.0), 0: split_result(12.0, 9.0)},
    )
    return RunResults(**(values | changes))


def changed(**changes: Any) -> str:
    """The text of :func:`run_results` with top-level entries replaced, or removed if None."""
    record = json.loads(run_results().to_json()) | changes
    return json.dumps({key: value for key, value in record.items() if value is not None})


def changed_split(**changes: Any) -> str:
    """The text of :func:`run_results` with entries of split 0 replaced."""
    record = json.loads(run_results().to_json())
    record["splits"]["0"] |= changes
    return json.dumps(record)


def test_mean_std_is_the_sample_deviation() -> None:
    """Mean and n - 1 deviation, computed by hand and by NumPy; None is left out of both."""
    assert mean_std([2.0, 4.0, 9.0]) == (5.0, math.sqrt((9 + 1 + 16) / 2))
    assert mean_std([2.0, None, 4.0, 9.0]) == mean_std([2.0, 4.0, 9.0])
    values = np.random.default_rng(0).uniform(0, 100, 7)
    assert mean_std(values) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-14)


def test_mean_std_of_few_values() -> None:
    """One value has no deviation, none has no mean either; equal values do deviate by zero."""
    assert mean_std([3.0]) == (3.0, None)
    assert mean_std([3.0, None]) == (3.0, None)
    assert mean_std([None]) == mean_std([]) == (None, None)
    assert mean_std([0.1, 0.1, 0.1]) == (0.1, 0.0)
    with pytest.raises(ValueError, match="finite"):
        mean_std([1.0, math.nan])


def test_schema() -> None:
    """The text has exactly the documented layout, splits ascending, and the averages of both."""
    record = json.loads(run_results().to_json())
    summary = record.pop("summary")
    assert list(record["splits"]) == ["0", "1"]
    assert record["splits"].pop("1")["bbox"]["AP"] == 14.0
    assert record == {
        "schema": 2,
        "method": "loco",
        "dataset": "coco10k",
        "encoder": "resnet50",
        "config": "configs/mask_rcnn_loco_coco10k.py",
        "config_sha256": "cd" * 32,
        "pretrained": {
            "path": "loco.pth",
            "sha256": "ef" * 32,
            "rule": "loco",
            "epochs": 100,
        },
        "requested_splits": [0, 1, 2],
        "splits": {
            "0": {
                "bbox": points(12.0),
                "segm": points(9.0, small=None),
                "official": None,
                "num_train_images": 200,
                "image_ids_sha256": "ab" * 32,
                "num_val_images": 50,
                "val_sha256": "12" * 32,
                "seed": 0,
            }
        },
    }
    assert set(summary) == {"bbox", "segm", "splits"} and summary["splits"] == 2
    assert list(summary["bbox"]) == list(METRICS)
    assert summary["bbox"]["AP"] == {"mean": 13.0, "std": pytest.approx(math.sqrt(2))}
    assert summary["segm"]["AP"] == {"mean": 10.5, "std": pytest.approx(math.sqrt(4.5))}
    assert summary["segm"]["APs"] == {"mean": None, "std": None}


def test_pretraining_epochs() -> None:
    """A run knows for how long its backbone was pretrained; random initialisation never was."""
    assert run_results().pretraining_epochs == 100
    assert run_results(pretrained=None).pretraining_epochs is None
    assert run_results(pretrained=PretrainedBackbone("x.pth", "ef" * 32)).pretraining_epochs is None
    for epochs in (-1, 1.5, True, "100"):
        with pytest.raises(ValueError, match="epochs must be an integer of at least 0"):
            PretrainedBackbone("x.pth", "ef" * 32, "loco", epochs)


def test_official_precision_is_averaged_beside_cocos() -> None:
    """Where the data set has its own evaluation, its averages are there too; nowhere else."""
    official = [{"AP": 20.0, "AP50": 40.0}, {"AP": 23.0, "AP50": None}]
    splits = {i: split_result(1.0, 2.0, official=values) for i, values in enumerate(official)}
    run = run_results(splits=splits)
    assert run.has_official and not run_results().has_official
    assert run.summary()["official"] == {
        "AP": {"mean": 21.5, "std": pytest.approx(math.sqrt(4.5))},
        "AP50": {"mean": 40.0, "std": None},
    }
    assert run_results().mean_std("official") == (None, None)


def test_summary_of_one_and_of_no_split() -> None:
    """One split has no deviation; before the first there are no means."""
    one = run_results(splits={2: split_result(12.0, 9.0)})
    assert one.summary()["bbox"]["AP"] == {"mean": 12.0, "std": None} and not one.complete
    none = run_results(splits={})
    assert none.summary()["bbox"]["AP"] == {"mean": None, "std": None}
    assert none.summary()["splits"] == 0
    assert run_results(requested_splits=[0, 1]).complete


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pretrained": None},
        {"pretrained": PretrainedBackbone("resnet50.pth", "ef" * 32)},
        {"splits": {}},
        {"splits": {0: split_result(0.0, 100.0, image_ids_sha256=None, seed=-3)}},
        {"splits": {0: split_result(1.0, 2.0, official={"AP": 27.1, "AP50": None})}},
        {"encoder": "shufflenet_v2_50", "dataset": "cityscapes"},
        {"splits": {0: split_result(None, 0.1 + 0.2)}, "method": "männlich & co | x"},
    ],
)
def test_round_trip(changes: dict[str, Any], tmp_path: Path) -> None:
    """Reading what was written gives equal results, and writing them again equal bytes."""
    run = run_results(**changes)
    run.write(tmp_path / "work" / "results.json")
    read = RunResults.read(tmp_path / "work" / "results.json")
    assert read == run and read.to_json() == run.to_json()
    assert read.source == tmp_path / "work" / "results.json"


def test_numpy_scalars_are_written_as_numbers() -> None:
    """Metrics come from NumPy; float32 must not end in a TypeError after hours of training."""
    metrics = {name: np.float32(12.5) for name in METRICS} | {"APl": np.float64(3.25)}
    run = run_results(splits={0: split_result(1.0, 2.0, bbox=metrics, official={"AP": np.float64(2.5), "AP50": None})})
    record = json.loads(run.to_json())["splits"]["0"]
    assert record["bbox"] == dict.fromkeys(METRICS, 12.5) | {"APl": 3.25}
    assert record["official"] == {"AP": 2.5, "AP50": None}


def test_stored_summary_is_not_believed() -> None:
    """Averages are computed from the splits, so an edited or stale summary has no effect."""
    text = changed(summary={"bbox": {"AP": {"mean": 99.0, "std": 0.0}}, "splits": 5})
    assert RunResults.from_json(text).mean_std("bbox").mean == 13.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 100.5, "12.0", True])
@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_impossible_precision(task: str, value: Any) -> None:
    """Precision is a finite number of points; pycocotools' -1 must have become null."""
    with pytest.raises(ValueError, match=f"{task} AP50 .*from 0 to 100"):
        split_result(1.0, 1.0, **{task: points(1.0) | {"AP50": value}})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"bbox": {"AP": 1.0}}, "bbox must have exactly the keys AP, AP50"),
        ({"segm": points(1.0) | {"AR": 1.0}}, "segm must have exactly the keys"),
        ({"num_train_images": 0}, "num_train_images must be an integer of at least 1"),
        ({"num_train_images": 3.0}, "num_train_images"),
        ({"seed": None}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"official": {"AP": 1.0}}, "official must have exactly the keys AP, AP50"),
        ({"official": {"AP": 10**400, "AP50": 1.0}}, "official AP must be a finite number"),
        ({"official": {"AP": -1, "AP50": 1.0}}, "official AP must be a finite number from 0 to 100"),
        ({"image_ids_sha256": ""}, "image_ids_sha256 must be one line of text"),
        ({"num_val_images": 0}, "num_val_images must be an integer of at least 1"),
        ({"num_val_images": True}, "num_val_images must be an integer of at least 1"),
        ({"val_sha256": None}, "val_sha256 must be one line of text"),
        ({"val_sha256": " "}, "val_sha256 must be one line of text"),
    ],
)
def test_impossible_split(changes: dict[str, Any], message: str) -> None:
    """A split refuses values that no run can have, on construction and on reading."""
    with pytest.raises(ValueError, match=message):
        split_result(1.0, 1.0, **changes)
    with pytest.raises(ValueError, match=f"split 0: {message}|NaN"):
        RunResults.from_json(changed_split(**changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": " "}, "method must be one line of text"),
        ({"dataset": "two\nlines"}, "dataset must be one line of text"),
        ({"encoder": None}, "encoder must be one line of text|lacks 'encoder'"),
        ({"config_sha256": 3}, "config_sha256 must be one line of text"),
        ({"requested_splits": []}, "at least one"),
        ({"requested_splits": [0, 1, 1]}, "distinct"),
        ({"requested_splits": [0, 1, -2]}, "at least 0"),
        ({"requested_splits": [0, 1.0]}, "at least 0"),
        ({"requested_splits": [0, 2]}, r"splits \[1\] have results but are not in requested"),
    ],
)
def test_impossible_run(changes: dict[str, Any], message: str) -> None:
    """A run refuses contradictions, on construction, on reading, and on writing when changed."""
    with pytest.raises(ValueError, match=message):
        run_results(**changes)
    with pytest.raises(ValueError, match=message):
        RunResults.from_json(changed(**changes))
    run = run_results()
    for name, value in changes.items():
        setattr(run, name, value)
    with pytest.raises(ValueError, match=message):
        run.to_json()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Expecting value"),
        ("[]", "not a JSON object"),
        ("{}", 'no "schema": 2'),
        (changed(schema=3), 'no "schema": 2'),
        (changed(schema=1), "of schema 1, .*delete it or use another --work-dir"),
        (changed(method=None), "lacks 'method'"),
        (changed(extra=1), "has an unknown 'extra'"),
        (changed(requested_splits="01"), "not a list"),
        (changed(splits=[]), '"splits" is not a JSON object'),
        (changed(splits={"01": {}}), "'01' that is not a number"),
        (changed(pretrained={"path": "x"}), "lacks 'epochs', lacks 'rule', lacks 'sha256'"),
        (changed_split(seconds=3), "split 0 has an unknown 'seconds'"),
        (run_results().to_json().replace("14.0", "NaN"), "NaN, which JSON does not allow"),
        (run_results().to_json().replace("14.0", "-Infinity"), "-Infinity, which JSON"),
        (run_results().to_json().replace("14.0", "1e999"), "bbox AP"),
    ],
)
def test_foreign_text(text: str, message: str, tmp_path: Path) -> None:
    """Text that is no such record is refused with the reason; a file also with its name."""
    with pytest.raises(ValueError, match=message):
        RunResults.from_json(text)
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=message) as caught:
        RunResults.read(path)
    assert str(caught.value).startswith(f"{path} is not a results file")
    assert "run that experiment again" in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is missing, a folder or not text raises the same error with its name."""
    with pytest.raises(ResultsError, match=r"missing.json cannot be read \(No such file"):
        RunResults.read(tmp_path / "missing.json")
    with pytest.raises(ResultsError, match="cannot be read"):
        RunResults.read(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsError, match="binary.json is not a results file"):
        RunResults.read(tmp_path / "binary.json")


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or impossible values never cost the splits that were already written."""
    path = tmp_path / "results.json"
    run = run_results()
    run.write(path)
    before = path.read_bytes()

    run.requested_splits = [0]
    with pytest.raises(ValueError, match="not in requested_splits"):
        run.write(path)

    def fail(*args: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        run_results(splits={}).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path], "no partial file stays behind"
