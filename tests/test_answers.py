"""Tools refuse what does not exist before they import what takes seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT, assert_one_line_error

pytestmark = pytest.mark.repository

RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    heavy = {"torch", "torchvision", "mmdet", "pandas", "matplotlib.pyplot", "sklearn"} & set(sys.modules)
    print(*heavy, file=sys.stderr, end="")
    assert not heavy
"""
IMAGENET = "configs/pretrain/loco_resnet50_imagenet.py"


@pytest.mark.parametrize("arguments", [
    ("pretrain", IMAGENET, "--data-root", "missing"),
    ("pretrain", "missing"),
    ("train_det", "configs/mask_rcnn_loco_coco10k.py", "--data-root", "missing"),
    ("test_det", "configs/mask_rcnn_coco10k.py", "missing"),
    ("evaluate", "missing"),
    ("evaluate", "random", "--encoder", "resnet18", "--data-root", "missing"),
    ("analyze", "spectrum", "missing"),
    ("export_backbone", "missing", "out.pth"),
    ("table", "missing"),
    ("report", "missing"),
    ("visualize", "curves", "missing"),
    ("visualize", "embed", "missing"),
], ids=" ".join)
def test_what_is_missing_is_reported_at_once(arguments):
    """One line that names it."""
    tool, *rest = arguments
    command = [sys.executable, "-c", RUN, f"tools/{tool}.py", *rest]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert_one_line_error(finished, "missing")
