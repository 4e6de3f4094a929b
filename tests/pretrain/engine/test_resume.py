"""Interrupted pretraining ends where undisturbed pretraining does, to the last bit: kills, signals, damaged files."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.engine.checkpoints import RECORD_KEY, checkpoint_files, load_checkpoint, newest_intact
from pretrain.engine.hooks import AtomicCheckpointHook
from tests.conftest import ROOT, assert_one_line_error
from tests.pretrain.fault_hook import MOMENTS, fault
from tests.pretrain.processes import PreloadedProcess, run_script

ITERATIONS = 15  # an epoch
# A schedule step each iteration, momentum, batch norm, and a network that draws random numbers in the main process.
CONFIG = f"""
_base_ = ["{ROOT}/configs/pretrain/simclr_resnet18_demo.py"]
custom_imports = dict(imports=["pretrain.run", "tests.pretrain.fault_hook"])
custom_hooks = [dict(type="FaultHook")]
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs)
model = dict(encoder=dict(type="TimmEncoder", name="resnet10t", channels=(32, 64, 128, 256),
                          drop_path_rate=0.2, _delete_=True))
train_dataloader = dict(batch_size=4, dataset=dict(views=dict(size=16)))
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval_iters=2))
"""
WORKERS = {0: ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"],
           1: ["train_dataloader.num_workers=1"]}
PAIR = dict(workers=0, overrides=["train_dataloader.batch_size=12"])
pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="workers outlive SIGTERM on Linux only")


class Pretraining:
    """Runs of one config on one folder of noise images, in whatever work directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.py"
        self.config.write_text(CONFIG)
        rng = np.random.default_rng(0)
        (folder / "images").mkdir()
        for index in range(4 * ITERATIONS):
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{index}.png")

    def arguments(self, work_dir: Path, workers: int = 1, overrides: Sequence[str] = ()) -> list[str]:
        """Of ``tools/pretrain.py``, which starts or resumes."""
        return [str(self.config), "--resume", "--data-root", str(self.folder / "images"), "--work-dir", str(work_dir),
                "--cfg-options", *WORKERS[workers], *overrides]

    def start(self, work_dir: Path, env: Mapping[str, str] = MappingProxyType({}), **options) -> PreloadedProcess:
        """A process at the head of its own process group."""
        return PreloadedProcess("tools/pretrain.py", self.arguments(work_dir, **options), self.folder / "log", env)

    def run(self, work_dir: Path, **options) -> subprocess.CompletedProcess:
        """Waits for the end of what :meth:`start` starts."""
        return finish(self.start(work_dir, **options))

    def run_pair(self, work_dir: Path) -> subprocess.CompletedProcess:
        """Two processes of five iterations an epoch."""
        return run_script("tools/pretrain.py", self.arguments(work_dir, **PAIR), self.folder / "pair", {}, processes=2)

    def torchrun_pair(self, work_dir: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
        """The same by torchrun, which ends all processes when one has failed."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        return subprocess.run([*torchrun, "tools/pretrain.py", *self.arguments(work_dir, **PAIR)], cwd=ROOT, text=True,
                              capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **env})


def finish(process: PreloadedProcess) -> subprocess.CompletedProcess:
    stdout, stderr = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory) -> Pretraining:
    return Pretraining(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def undisturbed(pretraining) -> Path:
    """Three epochs in one go."""
    finished = pretraining.run(pretraining.folder / "undisturbed")
    assert finished.returncode == 0, finished.stderr
    return pretraining.folder / "undisturbed"


def assert_same_state(expected: Path, found: Path) -> None:
    """Weights, optimizer, schedules, random numbers and progress are equal bit for bit."""
    expected, found = load_checkpoint(expected), load_checkpoint(found)
    assert expected.keys() == found.keys()
    for record in (expected[RECORD_KEY], found[RECORD_KEY]):
        record.pop("git_revision")  # somebody may commit meanwhile
    for key in expected.keys() - {"meta"}:  # holds times and paths
        assert_equal(expected[key], found[key], key)
    for key in ("epoch", "iter", "seed"):
        assert expected["meta"][key] == found["meta"][key]


def assert_equal(expected: object, found: object, name: str) -> None:
    assert type(expected) is type(found), name
    if isinstance(expected, torch.Tensor):
        assert torch.equal(expected, found), name
    elif isinstance(expected, dict):
        assert expected.keys() == found.keys(), name
        for key, value in expected.items():
            assert_equal(value, found[key], f"{name}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(found), name
        for index, value in enumerate(expected):
            assert_equal(value, found[index], f"{name}.{index}")
    else:
        assert expected == found, name


def progress(work_dir: Path) -> int:
    """Iterations of the newest checkpoint, which must be intact."""
    checkpoint, damaged = newest_intact(work_dir)
    assert not damaged
    return 0 if checkpoint is None else load_checkpoint(checkpoint)["meta"]["iter"]


def resumed_at(stderr: str) -> int:
    found = re.search(r"resumed epoch: \d+, iter: (\d+)", stderr)
    return int(found[1]) if found else 0


def wait_for(condition: Callable[[], object], process: PreloadedProcess) -> None:
    """Returns as soon as ``condition`` holds; fails where the process ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.0003)


def partial_since(work_dir: Path, start: float) -> list[Path]:
    """Files that are being written; a killed run's leftovers are older than ``start``."""
    return [file for file in work_dir.glob(".epoch_*.partial") if modified(file) >= start]


def modified(file: Path) -> float:
    """When; 0 if the file has got its final name meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0


def is_whole(file: Path) -> bool:
    try:
        load_checkpoint(file)
    except ValueError:
        return False
    return True


@pytest.mark.slow
def test_kills_lose_nothing(pretraining, undisturbed):
    """SIGKILL at random moments of random iterations, at random times, amid checkpoint writes; with and without workers."""
    rng = random.Random(0)
    work_dir = pretraining.folder / "killed"
    work_dir.mkdir()
    done, cut = 0, 0
    for kill in range(12):
        kind, start = ("iteration", "write", "time", "write")[kill % 4], time.time()
        env = fault(rng.choice(MOMENTS), done + rng.randint(1, 3), signal.SIGKILL) if kind == "iteration" else {}
        process = pretraining.start(work_dir, workers=kill % 3 % 2, env=env)
        if kind != "iteration":
            wait_for(lambda start=start: partial_since(work_dir, start), process)
            time.sleep(rng.uniform(0, 0.2) if kind == "time" else 0)
            process.kill()
        finished = finish(process)
        assert finished.returncode == -signal.SIGKILL, finished.stderr
        assert resumed_at(finished.stderr) == done  # the last start found the newest checkpoint that there was
        assert progress(work_dir) >= done
        cut += any(not is_whole(file) for file in work_dir.glob(".epoch_*.partial"))
        done = progress(work_dir)
    assert cut >= 2  # otherwise the writes were not hit
    assert 0 < done < 3 * ITERATIONS
    finished = pretraining.run(work_dir)
    assert finished.returncode == 0, finished.stderr
    assert resumed_at(finished.stderr) == done
    assert_same_state(undisturbed / "epoch_3.pth", work_dir / "epoch_3.pth")
    kept = {"epoch_3.pth", "epoch_2.pth", "epoch_1.pth"}
    assert {file.name for file in work_dir.glob("*epoch*")} == kept  # no checkpoints in between, nothing unfinished


@pytest.mark.slow
def test_signals_stop_a_run_after_the_current_iteration(pretraining, undisturbed):
    """Within an epoch, at its end, and sent to all processes, workers included, while training and again while saving."""
    work_dir = pretraining.folder / "stopped"
    for signum, iteration, name, code in ((signal.SIGTERM, 7, "epoch_0_iter_7.pth", 143),
                                          (signal.SIGINT, 9, "epoch_0_iter_9.pth", 130),
                                          (signal.SIGUSR1, 15, "epoch_1.pth", 143)):
        stopped = pretraining.run(work_dir, env=fault("before_train_iter", iteration, signum))
        assert stopped.returncode == code, stopped.stderr
        assert stopped.stdout == ""
        assert f"error: stopped by {signum.name} after iteration {iteration} of 45; {work_dir / name} is saved, continue " \
               "with --resume" in stopped.stderr
        assert checkpoint_files(work_dir)[0].name == name
    for first, begun, code in ((signal.SIGTERM, "epoch_1_iter_18.pth", 143), (signal.SIGINT, "epoch_2_iter_32.pth", 130)):
        process, start = pretraining.start(work_dir), time.time()
        wait_for(lambda begun=begun: (work_dir / begun).exists(), process)
        os.killpg(process.pid, first)
        wait_for(lambda start=start: partial_since(work_dir, start), process)
        os.killpg(process.pid, signal.SIGTERM)
        stopped = finish(process)
        assert stopped.returncode == (143 if signal.SIGTERM.name in stopped.stderr else code), stopped.stderr
        assert f"iteration {progress(work_dir)} of 45" in stopped.stderr
        assert not list(work_dir.glob(".*partial"))
    assert pretraining.run(work_dir, workers=0).returncode == 0
    assert_same_state(undisturbed / "epoch_3.pth", work_dir / "epoch_3.pth")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_of_them(pretraining):
    """Of two processes with random numbers of their own the second gets SIGTERM; both end as an undisturbed pair does."""
    whole, work_dir = pretraining.folder / "whole_pair", pretraining.folder / "stopped_pair"
    assert pretraining.run_pair(whole).returncode == 0
    stopped = pretraining.torchrun_pair(work_dir, fault("before_train_iter", 7, signal.SIGTERM, process=1))
    assert stopped.returncode != 0  # torchrun has its own code for failed processes
    assert "error: stopped by SIGTERM after iteration 7 of 15" in stopped.stderr
    assert "Signal 6" not in stopped.stderr  # none aborts because another has gone
    assert checkpoint_files(work_dir)[0].name == "epoch_1_iter_7.pth"
    states = load_checkpoint(work_dir / "epoch_1_iter_7.pth")["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])
    assert pretraining.run_pair(work_dir).returncode == 0
    assert_same_state(whole / "epoch_3.pth", work_dir / "epoch_3.pth")


@pytest.mark.slow
def test_damaged_checkpoints_are_named_and_passed_over(pretraining, undisturbed, tmp_path):
    """The two newest are cut and empty: the run goes on from the one before; where none is intact it refuses to start."""
    for name in ("run.json", "epoch_1.pth"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    (tmp_path / "epoch_2.pth").write_bytes((undisturbed / "epoch_2.pth").read_bytes()[:-1000])
    (tmp_path / "epoch_2_iter_36.pth").touch()
    finished = pretraining.run(tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert resumed_at(finished.stderr) == ITERATIONS
    for name in ("epoch_2.pth", "epoch_2_iter_36.pth"):
        assert f"skipped a checkpoint: {tmp_path / name} is truncated" in finished.stderr
    assert_same_state(undisturbed / "epoch_3.pth", tmp_path / "epoch_3.pth")
    for file in checkpoint_files(tmp_path):
        os.truncate(file, 1000)
    assert_one_line_error(pretraining.run(tmp_path), "no checkpoint to resume from", "epoch_3.pth is truncated",
                          "epoch_1.pth is truncated", "--work-dir")


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(pretraining, undisturbed):
    """--resume says the last checkpoint and trains nothing."""
    before = sorted((file, file.stat().st_mtime_ns) for file in undisturbed.glob("[!.]*"))
    finished = pretraining.run(undisturbed)
    assert (finished.returncode, finished.stdout.strip()) == (0, str(undisturbed / "epoch_3.pth"))
    assert sorted((file, file.stat().st_mtime_ns) for file in undisturbed.glob("[!.]*")) == before


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once(pretraining):
    """Nothing more is saved, and the exit code is not that of a run that was."""
    work_dir = pretraining.folder / "impatient"
    process = pretraining.start(work_dir, env=fault("before_train_iter", 3, signal.SIGINT, times=2))
    stopped = finish(process)
    assert stopped.returncode == 1
    assert "Ctrl-C again ends the run at once" in stopped.stderr and "Traceback" not in stopped.stderr
    assert [file.name for file in checkpoint_files(work_dir)] == ["epoch_0_iter_2.pth"]


@pytest.mark.parametrize("option", [dict(interval=0), dict(max_keep_ckpts=0), dict(interval_iters=-1),
                                    dict(interval_minutes=0)])
def test_options_that_mean_nothing(option):
    """Refused by name."""
    with pytest.raises(ValueError, match=next(iter(option))):
        AtomicCheckpointHook(**option)
