"""A folder is one process's at a time, and free again however that process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from pretrain.engine.claim import claim_run
from pretrain.errors import RunFailedError
from tests.conftest import ROOT

pytestmark = pytest.mark.repository

HOLD = """
import os, sys, time
from pretrain.engine.claim import claim_run
with claim_run(sys.argv[1]):
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(60)
    print("claimed", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that has claimed the folder when the fixture's function returns."""
    processes = []

    def start(*options: str) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), *options]
        processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True))
        assert processes[-1].stdout.readline() == "claimed\n"
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_until_the_first_is_gone(holder, tmp_path):
    """With who is at work; killed -9, it leaves nothing that is in the way of its continuation."""
    first = holder()
    with pytest.raises(RunFailedError, match=f"process {first.pid} on .*{tmp_path / 'run'}"), claim_run(tmp_path / "run"):
        pass
    first.send_signal(signal.SIGKILL)
    first.wait()
    with claim_run(tmp_path / "run"):
        pass


def test_workers_do_not_keep_the_claim(holder, tmp_path):
    """A data loader's worker outlives a killed run by seconds."""
    first = holder("with a child")
    first.kill()
    first.wait()
    with claim_run(tmp_path / "run"):
        pass
    os.killpg(first.pid, signal.SIGKILL)  # the child
