"""Jobs on shared GPUs: who sees which, how many at a time, failures and signals. Here GPUs are names that nobody uses."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from loco_det.experiment.scheduling import Job, gpu_groups, run_jobs, visible_gpus
from pretrain.errors import RunInterrupted

# Notes when it began and ended and what it saw; ends with the exit code that it is told.
SCRIPT = """
import os, pathlib, sys, time
out, code = pathlib.Path(sys.argv[1]), int(sys.argv[2])
began = time.time()
print("hello")
time.sleep(0.3)
out.write_text(f"{began} {time.time()} {os.environ['CUDA_VISIBLE_DEVICES']}")
sys.exit(code)
"""


def make_jobs(folder: Path, codes: list[int]) -> list[Job]:
    return [Job(f"job {i}", [sys.executable, "-c", SCRIPT, str(folder / f"{i}.out"), str(code)], folder / f"{i}" / "log")
            for i, code in enumerate(codes)]


def outcome(folder: Path, index: int) -> tuple[float, float, str]:
    began, ended, gpus = (folder / f"{index}.out").read_text().split()
    return float(began), float(ended), gpus


def test_jobs_have_gpus_of_their_own(tmp_path):
    """Five jobs of two GPUs each on five: two at a time, never the same GPU twice; the fifth GPU stays idle."""
    assert run_jobs(make_jobs(tmp_path, [0] * 5), gpu_groups(list("abcde"), 2)) == []
    outcomes = [outcome(tmp_path, i) for i in range(5)]
    assert {gpus for _, _, gpus in outcomes} == {"a,b", "c,d"}
    for one in outcomes:
        beside = [other for other in outcomes if other is not one and other[0] < one[1] and one[0] < other[1]]
        assert len(beside) <= 2 and all(other[2] != one[2] for other in beside)
    assert (tmp_path / "0" / "log").read_text() == "hello\n"


def test_a_failing_job_does_not_stop_the_others(tmp_path):
    """Its name, exit code and log are told; all others have run."""
    failed = run_jobs(make_jobs(tmp_path, [0, 3, 0]), [["0"]])
    assert failed == [f"job 1: exit code 3, see {tmp_path}/1/log"]
    assert all((tmp_path / f"{i}.out").exists() for i in range(3))


@pytest.mark.parametrize("size", [0, 2])
def test_too_few_gpus_are_refused(size):
    """More than there are, and none."""
    with pytest.raises(ValueError, match=f"{size} GPUs a run are asked for, but there are 1"):
        gpu_groups(["0"], size)


def test_a_stop_signal_reaches_the_running_jobs(tmp_path):
    """SIGTERM: the one that runs gets it and is waited for, the next one is not begun."""
    script = ("import pathlib, signal, sys, time\n"
              "def stop(*_):\n    time.sleep(0.3); pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(143)\n"
              "signal.signal(signal.SIGTERM, stop)\npathlib.Path(sys.argv[1]).write_text('ready')\ntime.sleep(60)")
    jobs = [Job(f"job {i}", [sys.executable, "-c", script, str(tmp_path / f"{i}.out")], tmp_path / "log") for i in (0, 1)]

    def interrupt() -> None:
        while not (tmp_path / "0.out").exists() or (tmp_path / "0.out").read_text() != "ready":
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(RunInterrupted, match="stopped by SIGTERM with 1 runs going on and 1 not begun") as caught:
        run_jobs(jobs, [["0"]])
    thread.join()
    assert caught.value.exit_code == 143
    assert (tmp_path / "0.out").read_text() == "saved"
    assert not (tmp_path / "1.out").exists()


def test_gpus_are_those_of_the_environment(monkeypatch):
    """What CUDA_VISIBLE_DEVICES names, whatever there is; an empty value is none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-0af")
    assert visible_gpus() == ["3", "GPU-0af"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1,1")
    assert visible_gpus() == ["0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
