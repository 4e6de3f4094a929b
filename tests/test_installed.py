"""The packages as a wheel installs them, without the repository around them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TESTS = ["tests/pretrain/results", "tests/pretrain/objectives"]  # of the fast tier; all of it would double its time


@pytest.mark.slow
@pytest.mark.repository
def test_nothing_needs_the_repository(tmp_path):
    """What setup.py packs runs tests of the fast tier in an empty folder, tables with published numbers among them."""
    packed, empty = tmp_path / "packed", tmp_path / "empty"
    subprocess.run([sys.executable, "setup.py", "-q", "build", "--build-base", tmp_path / "build", "--build-lib", packed],
                   cwd=ROOT, check=True, capture_output=True)
    (empty / "tests").mkdir(parents=True)
    shutil.copytree(ROOT / "tests", empty / "tests", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", empty)
    script = "import pretrain, loco_det; print(pretrain.__file__, loco_det.__file__)"
    env = {**os.environ, "PYTHONPATH": str(packed)}
    found = subprocess.run([sys.executable, "-c", script], cwd=empty, env=env, capture_output=True, text=True, check=True)
    assert all(file.startswith(str(packed)) for file in found.stdout.split())
    command = [sys.executable, "-m", "pytest", "-m", "not slow", "-n", "0", "-p", "no:cacheprovider", *TESTS]
    finished = subprocess.run(command, cwd=empty, env=env, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
