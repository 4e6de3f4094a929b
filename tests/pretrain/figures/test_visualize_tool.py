"""tools/visualize.py as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from tests.conftest import ROOT, assert_one_line_error
from tests.pretrain.synthetic_logs import draw_run

pytestmark = pytest.mark.repository


def check_files(finished, names, out):
    """All figures are there as readable PNG and SVG files, and reported on stdout with captions."""
    assert finished.returncode == 0, finished.stderr
    reported = json.loads(finished.stdout)
    assert set(reported) == {"files", "captions"} and list(reported["captions"]) == names
    assert reported["files"] == [str(out / f"{name}.{ending}") for name in names for ending in ("png", "svg")]
    for name in names:
        Image.open(out / f"{name}.png").verify()
        assert ET.parse(out / f"{name}.svg").getroot().tag.endswith("svg")


def test_curves(run_tool, tmp_path):
    """Two runs side by side, one of them unfinished."""
    runs = [draw_run(tmp_path / "simclr", "simclr"), draw_run(tmp_path / "loco", epochs=1)]
    finished = run_tool("visualize", "curves", *runs, "--out", tmp_path / "out")
    check_files(finished, ["curves", "curves_accuracy", "curves_learning_rate", "curves_throughput"], tmp_path / "out")


@pytest.mark.slow
def test_units(run_tool, tmp_path):
    """A config beside a work directory."""
    finished = run_tool("visualize", "units", "configs/pretrain/loco_resnet18_demo.py", draw_run(tmp_path / "run", "gim"),
                        "--out", tmp_path / "out")
    check_files(finished, ["units"], tmp_path / "out")


@pytest.mark.slow
def test_costs(run_tool, tmp_path):
    """A small encoder, small images."""
    finished = run_tool("visualize", "costs", "resnet18", "--image-size", 32, "--batch-size", 2, "--out", tmp_path / "out")
    check_files(finished, ["costs_stages", "costs_memory"], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "parts"), [
    (["curves", "{tmp}/nowhere"], ["nowhere does not exist", "tools/pretrain.py"]),
    (["units", "{tmp}/wrong.py"], ["no local unit updates block(s) 4"]),
    (["costs", "resnet51"], ["unknown encoder 'resnet51'", "resnet50"]),
])
def test_mistakes_are_one_line(run_tool, tmp_path, arguments, parts):
    """Each with what was given and the fix."""
    (tmp_path / "wrong.py").write_text("model = dict(encoder='resnet18', rule=[(0, 4), (5, 8)])\n")
    finished = run_tool("visualize", *(argument.format(tmp=tmp_path) for argument in arguments), "--out", tmp_path / "out")
    assert_one_line_error(finished, *parts)
    assert not (tmp_path / "out").exists()


def test_parsing_imports_nothing_heavy():
    """Help comes at once: what draws, torch and mmdet are imported when a command is carried out."""
    code = "\n".join([
        "import sys; sys.argv = ['visualize.py', '--help']; sys.path[0] = 'tools'",
        "import runpy",
        "try: runpy.run_path('tools/visualize.py', run_name='__main__')",
        "except SystemExit: pass",
        "assert not {'torch', 'mmdet', 'matplotlib', 'sklearn'} & set(sys.modules)",
    ])
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
