"""The demo's scheduler: order, side by side, failures with their log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from loco_det.demo import RULES, DemoError, Step, _pretraining_losses, demo_steps, run_steps


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_steps_wait_for_what_they_need(tmp_path):
    """The second step starts after the first has ended, whatever the order in the list."""
    file = tmp_path / "made"
    write = Step("first", [python(f"import time; time.sleep(0.5); open({str(file)!r}, 'w').close()")], lambda: 1, 1)
    read = Step("second", [python(f"open({str(file)!r})")], lambda: 1, 1, after=["first"])
    run_steps([read, write], tmp_path / "logs")
    assert {log.name for log in (tmp_path / "logs").iterdir()} == {"first.log", "second.log"}


def test_a_failure_shows_its_log_and_stops_the_rest(tmp_path):
    """The exception holds command, exit code and the log's end; what waits for it never runs."""
    marker = tmp_path / "ran"
    steps = [
        Step("bad", [python("print('the reason'); raise SystemExit(3)")], lambda: 0, 1),
        Step("slow", [python("import time; time.sleep(60)")], lambda: 0, 1),
        Step("never", [python(f"open({str(marker)!r}, 'w')")], lambda: 0, 1, after=["bad"]),
    ]
    with pytest.raises(DemoError, match=r"(?s)exit code 3; .*bad.log ends:\nthe reason"):
        run_steps(steps, tmp_path / "logs")
    assert not marker.exists()


def test_every_method_is_pretrained_exported_and_transferred(tmp_path):
    """Random needs no pretraining; each of the others waits for its own backbone."""
    steps = {step.name: step for step in demo_steps(tmp_path)}
    assert set(steps) == {f"pretrain_{r}" for r in RULES} | {f"mask_rcnn_{m}" for m in ("random", *RULES)}
    assert steps["mask_rcnn_random"].after == []
    for rule in RULES:
        assert steps[f"mask_rcnn_{rule}"].after == [f"pretrain_{rule}"]
        tools = [command[2] for command in steps[f"pretrain_{rule}"].commands]
        assert tools == ["tools/pretrain.py", "tools/export_backbone.py"]
    assert sum(step.total for step in steps.values()) == 4 * 5 + sum(steps[f"pretrain_{r}"].total for r in RULES)


def test_progress_is_read_off_the_files(tmp_path):
    """Epochs by the newest checkpoint, splits by their results."""
    (tmp_path / "pretrain_gim").mkdir()
    (tmp_path / "pretrain_gim" / "epoch_3.pth").touch()
    (tmp_path / "mask_rcnn_gim" / "split_2").mkdir(parents=True)
    (tmp_path / "mask_rcnn_gim" / "split_2" / "result.json").touch()
    steps = {step.name: step for step in demo_steps(tmp_path)}
    assert [steps[name].progress() for name in ("pretrain_gim", "mask_rcnn_gim", "pretrain_loco")] == [3, 1, 0]


def test_losses_of_the_first_and_last_epoch(tmp_path):
    """Means over each epoch's logged steps."""
    for rule in RULES:
        file = tmp_path / f"pretrain_{rule}" / "20260101" / "vis_data" / "scalars.json"
        file.parent.mkdir(parents=True)
        losses = [(1, 4.0), (1, 2.0), (2, 2.5), (3, 1.0)]
        records = [dict(lr=1), *(dict(iter=i, epoch=epoch, loss=loss) for i, (epoch, loss) in enumerate(losses, 1))]
        Path(file).write_text("\n".join(map(json.dumps, records)))
    assert _pretraining_losses(tmp_path) == [(rule, 3.0, 1.0) for rule in sorted(RULES)]
