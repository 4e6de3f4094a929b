"""The demo's scheduler: order, side by side, failures with their log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from loco_det.demo import RULES, Step, _pretraining_losses, ap_rows, demo_steps, run_steps
from pretrain.errors import RunFailedError
from pretrain.results.table import results_table
from tests.loco_det.detection_runs import identity, write_run

pytestmark = pytest.mark.repository


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_steps_wait_for_what_they_need(tmp_path):
    """The second step starts after the first has ended, whatever the order in the list."""
    file = tmp_path / "made"
    write = Step("first", python(f"import time; time.sleep(0.5); open({str(file)!r}, 'w').close()"))
    read = Step("second", python(f"open({str(file)!r})"), after=["first"])
    run_steps([read, write], tmp_path / "logs")
    assert {log.name for log in (tmp_path / "logs").iterdir()} == {"first.log", "second.log"}


def test_a_failure_shows_its_log_and_stops_the_rest(tmp_path):
    """Exit code and the log's end; what waits for it never runs."""
    steps = [
        Step("bad", python("print('the reason'); raise SystemExit(3)")),
        Step("slow", python("import time; time.sleep(60)")),
        Step("never", python("pass"), after=["bad"]),
    ]
    with pytest.raises(RunFailedError, match="bad .*exit code 3.*bad.log.*the reason"):
        run_steps(steps, tmp_path / "logs")
    assert not (tmp_path / "logs" / "never.log").exists()


def test_every_method_is_pretrained_exported_and_transferred(tmp_path):
    """Random needs no pretraining; each of the others waits for its own backbone."""
    steps = {step.name: step for step in demo_steps(tmp_path)}
    kinds = ("pretrain", "export", "mask_rcnn")
    assert set(steps) == {f"{kind}_{rule}" for kind in kinds for rule in RULES} | {"mask_rcnn_random"}
    assert steps["mask_rcnn_random"].after == []
    for rule in RULES:
        assert steps[f"mask_rcnn_{rule}"].after == [f"export_{rule}"]
        assert steps[f"export_{rule}"].after == [f"pretrain_{rule}"]
        assert steps[f"export_{rule}"].command[-1] == steps[f"mask_rcnn_{rule}"].command[-1]
    assert sum(step.total for step in steps.values()) == 4 * 5 + sum(steps[f"pretrain_{r}"].total for r in RULES)


def test_progress_is_read_off_the_files(tmp_path):
    """Epochs by the newest checkpoint, whatever it is called, and splits by their records."""
    for rule, name in (("gim", "epoch_3.pth"), ("simclr", "epoch_1_iter_11.pth")):
        (tmp_path / f"pretrain_{rule}").mkdir()
        (tmp_path / f"pretrain_{rule}" / name).touch()
    (tmp_path / "mask_rcnn_gim" / "split_2").mkdir(parents=True)
    (tmp_path / "mask_rcnn_gim" / "split_2" / "run.json").touch()
    steps = {step.name: step for step in demo_steps(tmp_path)}
    names = ("pretrain_gim", "pretrain_simclr", "mask_rcnn_gim", "pretrain_loco")
    assert [steps[name].progress() for name in names] == [3, 1, 1, 0]


def test_the_table_as_json(tmp_path):
    """A row a method, with the keys that others rely on; None stands for what does not exist."""
    for method, bbox, requested in (("random", [5.0], 2), ("loco", [10.0, 12.0], 2), ("simclr", [8.0, 9.0], 2)):
        write_run(tmp_path / method, identity(method, 12, "resnet18"), bbox, dataset="demo", requested=requested)
    table, _ = results_table([tmp_path])
    rows = {row["method"]: row for row in ap_rows(table)}
    assert list(rows) == ["random", "simclr", "loco"]
    common = dict(encoder="resnet18", dataset="demo", requested_splits=2)
    assert rows["random"] == dict(
        method="random", pretraining_epochs=None, **common, bbox_mean=5.0, bbox_std=None, bbox_delta=None, bbox_splits=1,
        segm_mean=5.0, segm_std=None, segm_delta=None, segm_splits=1)
    loco = dict(mean=11.0, std=2.0**0.5, delta=2.5, splits=2)
    assert rows["loco"] == dict(
        method="loco", pretraining_epochs=12, **common,
        **{f"{task}_{name}": value for task in ("bbox", "segm") for name, value in loco.items()})
    assert json.loads(json.dumps(rows)) == rows


def test_losses_of_the_first_and_last_epoch(tmp_path):
    """Means over each epoch's logged steps."""
    for rule in RULES:
        file = tmp_path / f"pretrain_{rule}" / "20260101" / "vis_data" / "scalars.json"
        file.parent.mkdir(parents=True)
        losses = [(1, 4.0), (1, 2.0), (2, 2.5), (3, 1.0)]
        records = [dict(lr=1), *(dict(iter=i, epoch=epoch, loss=loss) for i, (epoch, loss) in enumerate(losses, 1))]
        Path(file).write_text("\n".join(map(json.dumps, records)))
    assert _pretraining_losses(tmp_path) == [(rule, 3.0, 1.0) for rule in sorted(RULES)]
