"""Python processes that begin with the project's libraries imported, for tests that start a tool many times."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tests.conftest import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pretrain.run", "timm", "tests.pretrain.fault_hook"])


class PreloadedProcess:
    """``python <script> <arguments>`` from the project's root, in a process of its own at the head of its own group.

    It is forked from a server that has done nothing but import, which saves seconds; from there on it is a process like any
    other. What of :class:`subprocess.Popen` the tests use has the same meaning here.

    Args:
        script: path from the project's root.
        arguments: of the command line.
        log: prefix of the files that take stdout and stderr.
        env: variables that are set there.
    """

    def __init__(self, script: str, arguments: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.args = [script, *arguments]
        self._outputs = [log.with_suffix(".stdout"), log.with_suffix(".stderr")]
        self._process = _CONTEXT.Process(target=_run, args=(self.args, self._outputs, dict(env)))
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


def _run(command: Sequence[str], outputs: Sequence[Path], env: Mapping[str, str]) -> None:
    os.setsid()
    for descriptor, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    os.chdir(ROOT)
    os.environ.update(env)
    torch.set_num_threads(1)
    sys.argv[:] = command
    runpy.run_path(command[0], run_name="__main__")
