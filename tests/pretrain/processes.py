"""Processes that begin with the project's libraries imported, for tests that start tools and functions many times."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.conftest import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preload"])  # of every process of the method, those of torch.multiprocessing, too


class PreloadedProcess:
    """``python <script> <arguments>``, in a process of its own at the head of its own group.

    It is forked from a server that has done nothing but import, which saves seconds; from there on it is a process like any
    other. What of :class:`subprocess.Popen` the tests use has the same meaning here.

    Args:
        script: path from ``cwd``.
        arguments: of the command line.
        log: prefix of the files that take stdout and stderr.
        env: variables that are set there; ``PYTHONPATH`` is heeded.
        cwd: where it runs.
    """

    def __init__(self, script: str, arguments: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self.args = [script, *arguments]
        self._outputs = [log.with_suffix(".stdout"), log.with_suffix(".stderr")]
        self._process = _CONTEXT.Process(target=_run, args=(self.args, self._outputs, dict(env), cwd))
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        stdout, stderr = (file.read_text() for file in self._outputs)
        return stdout, stderr


def _run(command: Sequence[str], outputs: Sequence[Path], env: Mapping[str, str], cwd: Path) -> None:
    os.setsid()
    for descriptor, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    os.chdir(cwd)
    os.environ.update(env)
    sys.path[1:1] = [str(cwd / folder) for folder in env.get("PYTHONPATH", "").split(os.pathsep) if folder]
    torch.set_num_threads(1)
    sys.argv[:] = command
    runpy.run_path(command[0], run_name="__main__")


def run_script(
    script: str, arguments: Sequence[str], log: Path, env: Mapping[str, str], processes: int = 1, timeout: float = 300,
    cwd: Path = ROOT,
) -> subprocess.CompletedProcess:
    """Waits for the end of a script, in several processes as torchrun starts them: with its variables, nothing else of it.

    Returns:
        The first exit code that is not 0, and what all processes have written, one after the other.
    """
    shared = dict(WORLD_SIZE=str(processes), MASTER_ADDR="localhost", MASTER_PORT=str(free_port()))
    places = [dict(shared, RANK=str(i), LOCAL_RANK=str(i)) for i in range(processes)] if processes > 1 else [{}]
    started = [PreloadedProcess(script, arguments, log.with_name(f"{log.name}{index}"), {**env, **place}, cwd)
               for index, place in enumerate(places)]
    try:
        outputs = [process.communicate(timeout) for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    codes = [process.returncode for process in started]
    stdout, stderr = ("".join(texts) for texts in zip(*outputs, strict=True))
    return subprocess.CompletedProcess(started[0].args, next(filter(None, codes), 0), stdout, stderr)


def run_in_processes(function: Callable[..., Any], world_size: int, folder: Path, *args: Any) -> list[Any]:
    """``[function(*args) in rank 0, in rank 1, ...]`` of gloo; the function and what it returns must be picklable."""
    mp.start_processes(_process, (function, world_size, str(folder), args), nprocs=world_size, start_method="forkserver")
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(world_size)]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _process(rank: int, function: Callable[..., Any], world_size: int, folder: str, args: tuple) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    result = function(*args)
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
