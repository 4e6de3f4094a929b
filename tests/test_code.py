"""Properties of the source itself: style, and the direction of imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.repository

# Every room may import those above it in its list, and loco_det those of pretrain; what is in no list fails the test.
PRETRAIN = ["errors", "options", "encoders", "heads", "local", "distributed", "objectives", "learner", "data", "engine",
            "results", "costs", "eval", "run", "figures"]
LOCO_DET = ["datasets", "model", "evaluation", "register", "experiment", "figures", "report", "demo"]
ORDER = {f"{package}.{room}": i for i, (package, room) in enumerate(
    [("pretrain", room) for room in PRETRAIN] + [("loco_det", room) for room in LOCO_DET])}


def imported_modules(file: Path) -> set[str]:
    """Every module named in an import statement anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(module: str) -> str:
    """``pretrain.data`` of ``pretrain.data.views``."""
    return ".".join(module.split(".")[:2])


def test_imports_go_one_way():
    """No module imports from a room that stands later in the line."""
    against = []
    for package in ("pretrain", "loco_det"):
        for file in sorted((ROOT / package).rglob("*.py")):
            own = room(".".join(file.relative_to(ROOT).with_suffix("").parts))
            if own.endswith(".__init__"):
                continue
            against += [f"{file.relative_to(ROOT)} imports {module}" for module in imported_modules(file)
                        if ORDER.get(room(module), -1) > ORDER[own]]
    assert against == []


def test_no_circle_of_modules():
    """Modules of a room have an order, too."""
    files = {".".join(file.relative_to(ROOT).with_suffix("").parts): file
             for package in ("pretrain", "loco_det") for file in (ROOT / package).rglob("*.py")}
    files = {name.removesuffix(".__init__"): file for name, file in files.items()}
    imports = {name: {module for module in imported_modules(file) if module in files and module != name}
               for name, file in files.items()}
    TopologicalSorter(imports).prepare()  # raises a CycleError that names the circle


def test_pretraining_needs_no_detector():
    """``pretrain`` imports neither ``loco_det`` nor mmdet nor mmcv."""
    for file in sorted((ROOT / "pretrain").rglob("*.py")):
        for module in imported_modules(file):
            assert module.split(".")[0] not in ("loco_det", "mmdet", "mmcv"), f"{file}: {module}"


def test_only_one_room_knows_torch_distributed():
    """Everybody else asks :mod:`pretrain.distributed.comm`."""
    for package in ("pretrain", "loco_det", "tools"):
        for file in sorted((ROOT / package).rglob("*.py")):
            if file.parent != ROOT / "pretrain" / "distributed":
                imports = imported_modules(file)
                assert not any(module.startswith(("torch.distributed", "mmengine.dist")) for module in imports), file
                assert not re.search(r"torch\.distributed\.(?!run)", file.read_text()), file


def test_ruff_finds_nothing():
    """What `make lint` runs."""
    finished = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
