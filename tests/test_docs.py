"""The documentation: its links, tools, options and configs exist, and its examples run."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, TINY_SET
from tests.pretrain.processes import run_script

pytestmark = pytest.mark.repository

PAGES = sorted([ROOT / "README.md", ROOT / "configs" / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SECTION = re.compile(r"^## ", re.MULTILINE)
SMALL = [f"synthetic_data.{name}={value}" for name, value in TINY_SET.items()]
SMALL_RUN = {  # what makes the examples' commands short
    "pretrain.py": ["--cfg-options", "train_dataloader.batch_size=4", "train_dataloader.dataset.views.size=32", *SMALL],
    "train_det.py": ["--splits", "0", "--cfg-options", "protocol.split_size=8", "train_cfg.max_iters=2", *SMALL],
}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def sections(page: Path) -> dict[str, str]:
    """The text below each heading of the second level."""
    parts = SECTION.split(page.read_text())[1:]
    return {part.partition("\n")[0]: part for part in parts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_resolve(page):
    """Files exist, and so do the headings that a link names."""
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page):
    """Tools, configs and modules whose paths are written out, without braces or placeholders."""
    for file in re.findall(r"(?<![\w/{])(?:tools|configs|pretrain|loco_det|tests)/[\w/]+\.py\b", page.read_text()):
        assert (ROOT / file).is_file() or (page.parent / file).is_file(), file


def test_options_in_commands_exist():
    """Every --option in a command is one that the tool's source, or a module that adds arguments, defines."""
    sources = [*(ROOT / "tools").glob("*.py"), *(ROOT / "pretrain").rglob("*.py"), *(ROOT / "loco_det").rglob("*.py")]
    defined = {option for file in sources for option in re.findall(r'"(--[a-z][\w-]*)"', file.read_text())} | {"--help"}
    for page in PAGES:
        for _, code in CODE.findall(page.read_text()):
            for line in code.replace("\\\n", " ").splitlines():
                _, tool, arguments = line.partition("tools/")
                used = set(re.findall(r"(?<=\s)--[a-z][\w-]*", arguments.split("  #")[0])) if tool else set()
                assert used <= defined, f"{page.name}: {', '.join(used - defined)} in {line.strip()}"


@pytest.mark.slow
@pytest.mark.parametrize("section", sections(ROOT / "docs" / "extending.md"))
def test_extension_examples_run(section, tmp_path, synthetic_root):
    """Saves a section's Python blocks under the names in their first lines and runs its commands, on little data."""
    for folder in ("configs", "tools"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "synthetic").symlink_to(synthetic_root)
    (tmp_path / "my" / "arrays").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (8, 40, 48, 3), dtype=np.uint8)
    np.save(tmp_path / "my" / "arrays" / "images.npy", images)
    blocks = CODE.findall(sections(ROOT / "docs" / "extending.md")[section])
    for language, code in blocks:
        if language == "python":
            (tmp_path / re.match(r"# (\w+\.py)\n", code)[1]).write_text(code)
    commands = [line for language, code in blocks if language == "sh" for line in code.splitlines()]
    assert commands
    for command in commands:
        run_command(command, tmp_path)


def run_command(command: str, folder: Path) -> None:
    """Runs a command line of the form ``[PYTHONPATH=.] python tools/NAME.py ARGUMENTS`` with small sizes."""
    python_path = str(ROOT)
    if command.startswith("PYTHONPATH=. "):
        command, python_path = command.removeprefix("PYTHONPATH=. "), f".{os.pathsep}{ROOT}"
    _, tool, *arguments = command.partition("  #")[0].split()
    arguments += SMALL_RUN.get(Path(tool).name, [])
    finished = run_script(tool, arguments, folder / "log", {"PYTHONPATH": python_path}, cwd=folder)
    assert finished.returncode == 0, f"{command}\n{finished.stderr[-3000:]}"


def test_python_in_the_readme_runs():
    """Its block of Python, in a namespace of its own."""
    blocks = [code for language, code in CODE.findall((ROOT / "README.md").read_text()) if language == "python"]
    assert blocks
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {})
