"""The demo: order, side by side, failures with their log, interruption and continuation."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loco_det import demo
from loco_det.demo import RULES, Step, ap_rows, demo_steps, pretraining_loss, run_steps
from pretrain.errors import RunFailedError
from pretrain.results.table import results_table
from tests.conftest import ROOT
from tests.loco_det.detection_runs import identity, write_run

pytestmark = pytest.mark.repository


@pytest.fixture
def script(tmp_path):
    """Writes a Python script and returns its path as a command."""
    def write(name: str, code: str) -> list[str]:
        (tmp_path / name).write_text(code)
        return [str(tmp_path / name)]

    return write


def test_steps_wait_for_what_they_need(tmp_path, script):
    """The second step starts after the first has ended, whatever the order in the list; results are shown."""
    file = tmp_path / "made"
    write = Step("first", script("write.py", f"import time; time.sleep(0.5); open({str(file)!r}, 'w').close()"))
    read = Step("second", script("read.py", f"open({str(file)!r})"), after=["first"], result=lambda: "it was there")
    run_steps([read, write], tmp_path / "logs")
    assert {"first.log", "second.log"} <= {log.name for log in (tmp_path / "logs").iterdir()}


def test_a_failure_shows_its_log_and_stops_the_rest(tmp_path, script):
    """Exit code and the log's end; what waits for it never runs."""
    steps = [
        Step("bad", script("bad.py", "print('the reason'); raise SystemExit(3)")),
        Step("slow", script("slow.py", "import time; time.sleep(60)")),
        Step("never", script("never.py", "pass"), after=["bad"]),
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
    assert demo._ap_line(tmp_path / "loco").startswith("LoCo: AP^bb 11.0 ± 1.4")


def test_losses_of_the_first_and_last_epoch(tmp_path):
    """Means over each epoch's logged steps."""
    file = tmp_path / "pretrain_gim" / "20260101" / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    losses = [(1, 4.0), (1, 2.0), (2, 2.5), (3, 1.0)]
    records = [dict(lr=1), *(dict(iter=i, epoch=epoch, loss=loss) for i, (epoch, loss) in enumerate(losses, 1))]
    Path(file).write_text("\n".join(map(json.dumps, records)))
    assert pretraining_loss(tmp_path, "gim") == "gim: 3.00 -> 1.00"


TINY_DEMO = """
import sys
from pathlib import Path
from loco_det import demo

CHANGES = {changes}
demo.RULES = ("loco",)
demo._report_line = str  # has tests of its own
demo.draw_data = lambda: None  # another set
steps_of = demo.demo_steps

def tiny_steps(work_dir):
    steps = steps_of(work_dir)
    for step in steps:
        kind, _, name = step.name.partition("_")
        if kind == "pretrain":
            step.command += ["--cfg-options", *CHANGES["pretrain"]]
            step.total = 2
        elif kind == "export":
            step.command[1] = step.command[1].replace("epoch_8", "epoch_2")
        else:
            step.command += ["--cfg-options", *CHANGES["detect"]]
            step.total = 1
    return steps

demo.demo_steps = tiny_steps
if __name__ == "__main__":
    from pretrain.engine.cli import command
    command(lambda: demo.run_demo(Path({work_dir!r})))()
"""


def test_an_interrupted_demo_continues_to_the_same_table(tmp_path):
    """SIGINT, SIGTERM and SIGKILL at random moments, and the same command again: the AP are those of an undisturbed demo."""
    data = tmp_path / "data"
    synthetic = [f"synthetic_data.root={data}", "synthetic_data.num_train=16", "synthetic_data.num_val=4",
                 "synthetic_data.num_unlabeled=24"]
    changes = dict(
        pretrain=[*synthetic, f"train_dataloader.dataset.data_root={data}/unlabeled2017", "train_cfg.max_epochs=2",
                  "train_dataloader.batch_size=8", "model.encoder.width=4", "param_scheduler=None"],
        detect=[*synthetic, f"data.root={data}", "protocol.num_splits=1", "protocol.split_size=8", "train_cfg.max_iters=6",
                "train_dataloader.batch_size=2", "model.backbone.encoder.width=4", "param_scheduler=None"],
    )

    def start(name: str) -> subprocess.Popen:
        script = tmp_path / f"{name}.py"
        script.write_text(TINY_DEMO.format(changes=changes, work_dir=str(tmp_path / name)))
        return subprocess.Popen([sys.executable, script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

    began = time.monotonic()
    undisturbed = start("undisturbed")
    output, errors = undisturbed.communicate()
    assert undisturbed.returncode == 0, errors
    duration, generator = time.monotonic() - began, random.Random(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start("disturbed")
        time.sleep(generator.uniform(0.2, 0.8) * duration)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        _, errors = process.communicate()
        assert "Traceback" not in errors
        assert process.returncode in (0, 1, {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number])
    again = start("disturbed")
    output, errors = again.communicate()
    assert again.returncode == 0, errors
    tables = [json.loads((tmp_path / name / "ap_table.json").read_text()) for name in ("undisturbed", "disturbed")]
    assert tables[0] == tables[1]
    assert "AP^mk" in output
