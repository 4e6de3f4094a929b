"""What all tools share: results alone on stdout, and a quiet end where nobody reads them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TOOL = "from pretrain.engine.cli import command\ncommand(lambda: print('a log line') or {output})()\n"


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


FAILING = "from pretrain.engine.cli import command\ndef main():\n    {statement}\ncommand(main)()\n"


@pytest.mark.parametrize(
    ("statement", "code", "last_line"),
    [
        ("import os; os.makedirs('/dev/null/results')", 2, "error: [Errno 20] Not a directory: '/dev/null/results'"),
        ("open('/')", 2, "error: [Errno 21] Is a directory: '/'"),
        ("raise FileNotFoundError('a.pth does not exist')", 2, "error: a.pth does not exist"),
        ("raise OSError('no file is to blame')", 1, "OSError: no file is to blame"),
        ("raise BrokenPipeError(32, 'Broken pipe')", 1, "BrokenPipeError: [Errno 32] Broken pipe"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(statement, code, last_line):
    """Where an OSError names a file a user can fix it; all others keep their traceback."""
    process = subprocess.run([sys.executable, "-c", FAILING.format(statement=statement)], cwd=ROOT, capture_output=True,
                             text=True, timeout=60)
    lines = process.stderr.splitlines()
    assert (process.returncode, process.stdout, lines[-1]) == (code, "", last_line)
    assert (len(lines) == 1) == (code == 2)
