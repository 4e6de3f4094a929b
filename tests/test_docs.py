"""The documentation's links, pictures, tools and configs exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "configs" / "README.md", *(ROOT / "docs").glob("*.md")])
TOOLS = {file.name for file in (ROOT / "tools").glob("*.py")}
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


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
def test_tools_and_configs_that_are_named_exist(page):
    """Those whose names are spelled out, without braces or placeholders."""
    text = page.read_text()
    assert set(re.findall(r"tools/(\w+\.py)", text)) <= TOOLS
    for config in re.findall(r"(?<![\w/])configs/[\w/]+\.py", text):
        assert (ROOT / config).is_file(), config


def test_the_readme_lists_every_tool():
    """In its layout."""
    layout = (ROOT / "README.md").read_text().split("## Layout")[1]
    listed = layout[layout.index("tools/"):layout.index("tests/")]
    assert set(re.findall(r"\w+", listed)) - {"tools"} == {Path(tool).stem for tool in TOOLS}
