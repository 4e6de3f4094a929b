"""Properties of the source itself: style, and the direction of imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

# images -> views -> encoder -> units -> checkpoint -> backbone -> detector -> splits -> table; no module imports a later one
FORBIDDEN = {
    "pretrain": ("loco_det", "mmdet", "mmcv"),
    "pretrain/data": ("pretrain.encoders", "pretrain.learner", "pretrain.run", "pretrain.checkpoints", "pretrain.results"),
    "pretrain/encoders": ("pretrain.decoders", "pretrain.local_units", "pretrain.learner", "pretrain.checkpoints",
                          "pretrain.results"),
    "pretrain/objectives": ("pretrain.encoders", "pretrain.decoders", "pretrain.learner", "pretrain.results"),
    "pretrain/learner.py": ("pretrain.results", "pretrain.run", "pretrain.checkpoints", "pretrain.readout"),
    "pretrain/results": ("pretrain.run", "pretrain.readout", "pretrain.figures"),
    "pretrain/readout": ("pretrain.figures",),
    "loco_det/datasets": ("loco_det.backbone", "loco_det.experiment", "loco_det.html_report"),
    "loco_det/evaluation": ("loco_det.experiment", "loco_det.html_report", "loco_det.demo"),
}


def imported_modules(file: Path) -> set[str]:
    """Every module named in an import statement anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder):
    """No module imports one that stands later in the line; pretraining never needs mmdet."""
    place = ROOT / folder
    for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
        for module in imported_modules(file):
            assert not any(module == bad or module.startswith(bad + ".") for bad in FORBIDDEN[folder]), f"{file}: {module}"


def test_ruff_finds_nothing():
    """What `make lint` runs."""
    finished = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
