"""Tools refuse what is missing or unknown before they import what takes seconds."""

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
    heavy = {"torch", "torchvision", "mmengine.runner", "mmdet", "pandas", "matplotlib", "sklearn"} & set(sys.modules)
    print(*heavy, file=sys.stderr, end="")
    assert not heavy
"""
IMAGENET = "configs/pretrain/loco_resnet50_imagenet.py"
COCO10K = "configs/mask_rcnn_loco_coco10k.py"


@pytest.mark.parametrize("arguments", [
    ("pretrain", IMAGENET, "--data-root", "missing"),
    ("pretrain", "missing"),
    ("train_det", COCO10K, "--data-root", "missing"),
    ("test_det", "configs/mask_rcnn_coco10k.py", "missing"),
    ("evaluate", "missing"),
    ("evaluate", "random", "--encoder", "resnet18", "--data-root", "missing"),
    ("analyze", "spectrum", "missing"),
    ("analyze", "probes", "random", "--encoder", "resnet18", "--data-root", "missing"),
    ("export_backbone", "missing", "out.pth"),
    ("table", "missing"),
    ("report", "missing"),
    ("visualize", "curves", "missing"),
    ("visualize", "embed", "missing"),
    ("visualize", "embed", "README.md", "--data-root", "missing"),
], ids=" ".join)
def test_what_is_missing_is_reported_at_once(arguments):
    """One line that names it."""
    assert_one_line_error(run(*arguments), "missing")


@pytest.mark.parametrize(("arguments", "named"), [
    (("pretrain", IMAGENET, "--data-root", "configs", "--cfg-options", "model.rule=locoo"), "'loco'"),
    (("pretrain", IMAGENET, "--show-units", "--cfg-options", "model.rule.type=locoo"), "'loco'"),
    (("train_det", COCO10K, "--cfg-options", "protocol.split_sizes=8"), "'split_size'"),
    (("train_det", COCO10K, "--cfg-options", "pretrained.checkpoints=x"), "'checkpoint'"),
    (("test_det", COCO10K, "missing", "--cfg-options", "data.rot=x"), "'root'"),
    (("costs", "step", "--encoder", "resnet18", "--methods", "locoo"), "'loco'"),
    (("evaluate", "random"), "--encoder"),
    (("evaluate", "resnet50-19c8e357.pth"), "https://download.pytorch.org/models/resnet50-19c8e357.pth"),
    (("analyze", "spectrum", "random"), "--encoder"),
    (("table", "configs"), "no results below configs"),
    (("report", "configs"), "no results below configs"),
    *((("visualize", name, "configs"), "no results below configs")
       for name in ("curves", "units", "probes", "spectrum", "detections", "ap")),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_is_wrong_is_reported_at_once(arguments, named):
    """One line that names it, or what may be meant."""
    assert_one_line_error(run(*arguments), named)


def run(tool, *arguments):
    """Runs a tool, which fails otherwise than with an error of its own where it has imported anything heavy."""
    command = [sys.executable, "-c", RUN, f"tools/{tool}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
