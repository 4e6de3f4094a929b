"""Commands that share a machine's GPUs, as many at a time as fit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loco_det.datasets.parallel import usable_cores
from pretrain.engine.cli import note
from pretrain.engine.loop import StopRequest
from pretrain.errors import RunInterrupted

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """A command that uses GPUs.

    Attributes:
        name: what to call it in messages.
        command: the argument list.
        log: where its output goes, appended.
    """

    name: str
    command: Sequence[str]
    log: Path


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    gpus: Sequence[str]


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` spells them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names  # CUDA sees none after it


def gpu_groups(gpus: Sequence[str], size: int) -> list[Sequence[str]]:
    """As many disjoint groups of ``size`` GPUs as there are.

    Raises:
        ValueError: there are fewer GPUs than one group needs.
    """
    if not 1 <= size <= len(gpus):
        raise ValueError(f"{size} GPUs a run are asked for, but there are {len(gpus)}; pass --gpus-per-run from 1 "
                         "to the number of GPUs, or leave it out")
    return [gpus[i : i + size] for i in range(0, len(gpus) - size + 1, size)]


def run_jobs(jobs: Sequence[Job], groups: Sequence[Sequence[str]]) -> list[str]:
    """Runs all jobs; each sees its own GPUs only.

    A job that fails does not stop the others. When a stop signal comes, it is passed on, and all are waited for.

    Args:
        jobs: in the order in which they are started.
        groups: GPUs that a job has to itself, see :func:`gpu_groups`.

    Returns:
        Of every job that has failed a line with its exit code and its log.

    Raises:
        RunInterrupted: a signal has come; the jobs have ended, each in its own way.
    """
    waiting, free, running, failed = list(jobs), list(groups), [], []
    with StopRequest() as stop:
        try:
            while (waiting or running) and not stop.signum:
                while waiting and free:
                    running.append(_start(waiting.pop(0), free.pop(0), len(groups)))
                ended = [entry for entry in running if entry.process.poll() is not None]
                for entry in ended:
                    running.remove(entry)
                    free.append(entry.gpus)
                    failed += _report(entry)
                if not ended:
                    time.sleep(POLL_SECONDS)
        finally:  # they have sessions of their own, and would go on without us
            for entry in running:
                entry.process.terminate()
            for entry in running:
                entry.process.wait()
    if stop.signum:
        raise RunInterrupted(f"stopped by {signal.Signals(stop.signum).name} with {len(running)} runs going on and "
                             f"{len(waiting)} not begun; continue with --resume", stop.signum)
    return failed


def _start(job: Job, gpus: Sequence[str], at_a_time: int) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    threads = max(1, usable_cores() // at_a_time // len(gpus))
    env = {"OMP_NUM_THREADS": str(threads), **os.environ, "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    with open(job.log, "ab") as log:
        process = subprocess.Popen(job.command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   start_new_session=True)  # Ctrl-C reaches it through us, once
    note(f"{job.name}: started on GPU {','.join(gpus)}, log in {job.log}")
    return _Running(job, process, gpus)


def _report(entry: _Running) -> list[str]:
    code = entry.process.returncode
    if code == 0:
        note(f"{entry.job.name}: finished")
        return []
    line = f"{entry.job.name}: exit code {code}, see {entry.job.log}"
    note(f"failed, going on without it: {line}")
    return [line]
