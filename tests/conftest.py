"""What several test files share: small image sets, backbones and a way to run the tools as a user does."""

from __future__ import annotations

import functools
import gc
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import mmengine.config.utils
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from PIL import Image

from pretrain.data.synthetic import ensure_synthetic_dataset
from pretrain.data.synthetic_scenes import SyntheticConfig

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads, here or in tools that tests start, cost time
    os.environ["OMP_NUM_THREADS"] = "1"

# A hundred YAML files of mmdet, which mmengine reads again for every config that has one of mmdet's as its base.
mmengine.config.utils._get_cfg_metainfo = functools.cache(mmengine.config.utils._get_cfg_metainfo)

ROOT = Path(__file__).resolve().parents[1]
FAST = ("local", "objectives", "data", "results")  # rooms: units and executor, objectives, data, tables
LONG = ("test_resume.py", "test_whole_line.py", "test_experiment.py", "test_docs.py", "test_demo.py", "test_sequential.py",
        "test_data_parallel.py", "test_evaluate.py", "test_complexity.py", "test_memory.py", "test_learner.py")  # minutes
DEMO_ENCODER = dict(type="resnet18", stem="stl", width=16)
TINY_SET = dict(num_train=24, num_val=6, num_unlabeled=12)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """With an installed package alone, test modules that need the repository's configs or tools are left out."""
    is_alone = not (ROOT / "configs").is_dir() and collection_path.suffix == ".py"
    return True if is_alone and "pytestmark = pytest.mark.repository" in collection_path.read_text() else None


def pytest_collection_modifyitems(items):
    """Tests outside of :data:`FAST` are not in the fast tier; without the repository, tests that need it are skipped.

    The longest files go first, so that no worker is left with one when the others have finished.
    """
    items.sort(key=lambda item: item.path.name not in LONG)
    for item in items:
        if item.path.parent.name not in FAST:
            item.add_marker(pytest.mark.slow)
        if not (ROOT / "configs").is_dir() and ("repository" in item.keywords or "run_tool" in item.fixturenames):
            item.add_marker(pytest.mark.skip(reason="needs the repository"))


def pytest_collection_finish():
    """Garbage collections while tests run need not look at all imported modules again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    """More threads than cores, as in side-by-side runs, cost more than they give; and sums keep their order."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


@pytest.fixture(autouse=True, scope="session")
def _interruptible():
    """A shell's background jobs ignore SIGINT, and so would every process that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_default_scope():
    """A Runner leaves its registry scope to the whole process: what a test finds must not hang on which ran before it."""
    DefaultScope._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory) -> Path:
    """A small set of the embedded generator in COCO's layout; tests must not change it."""
    return ensure_synthetic_dataset(tmp_path_factory.mktemp("data") / "synthetic", SyntheticConfig(**TINY_SET))


@pytest.fixture
def image_folder(tmp_path) -> Path:
    """Eight noise images in two subfolders."""
    rng = np.random.default_rng(0)
    for i in range(8):
        file = tmp_path / "images" / f"part{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


@pytest.fixture
def run_tool(tmp_path_factory):
    """Runs ``tools/<name>.py`` from the project's root as a user does, and returns the finished process.

    In a process of its own, or several that torchrun might have started, that begin with the libraries imported, which saves
    seconds each time.
    """
    from tests.pretrain.processes import run_script

    def run(
        name: str, *args: object, timeout: float = 300, env: Mapping[str, str] = MappingProxyType({}), processes: int = 1
    ) -> subprocess.CompletedProcess:
        log = tmp_path_factory.mktemp("tool") / name
        return run_script(f"tools/{name}.py", [str(arg) for arg in args], log, env, processes, timeout)

    return run


def assert_one_line_error(finished: subprocess.CompletedProcess, *parts: object) -> None:
    """Exit code 2, nothing on stdout, one ``error:`` line on stderr that contains all ``parts``, no traceback."""
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, finished.stderr
    for part in parts:
        assert str(part) in errors[0], errors[0]
