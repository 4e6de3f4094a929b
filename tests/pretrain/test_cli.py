"""What all tools share: results alone on stdout, and a quiet end where nobody reads them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOOL = "from pretrain.cli import command\ncommand(lambda: print('a log line') or {output})()\n"


@pytest.mark.parametrize("output", ["'table'", "'row\\n' * 50000"], ids=["short", "longer than the buffer"])
def test_a_closed_pipe_ends_a_tool_quietly(output):
    """As before ``| head``: the exit code that shells give a process which SIGPIPE ended, and no traceback."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}  # flush at exit, as usual
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([sys.executable, "-c", TOOL.format(output=output)], cwd=ROOT, stdout=writing,
                             stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "a log line\n")


def test_only_the_result_is_on_stdout():
    """What is printed meanwhile goes to stderr."""
    process = subprocess.run([sys.executable, "-c", TOOL.format(output="'table'")], cwd=ROOT, capture_output=True, text=True,
                             timeout=60)
    assert (process.returncode, process.stdout, process.stderr) == (0, "table\n", "a log line\n")
