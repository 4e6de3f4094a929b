"""The report of a small experiment as a page: all that is in it, and how it works in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loco_det.report.blocks import Section, Table, text_table
from loco_det.report.contents import Contents
from loco_det.report.render import rendered, write_report
from loco_det.report.sorting import numeric_columns, sort_number
from pretrain.results.formats import table_text
from pretrain.results.table import results_table
from tests.loco_det.report.chromium import headless_chromium, missing_browser
from tests.loco_det.report.experiment import demo_identity, write_detection, write_experiment

in_browser = pytest.mark.skipif(missing_browser() is not None, reason=missing_browser() or "")
VOID = {"meta", "link", "img", "input", "br", "wbr"}
CLIPBOARDS = {  # what a page may meet with, as a script that runs before its own
    "any": "",
    "none": "delete Navigator.prototype.clipboard",
    "refused": "navigator.clipboard.writeText = async () => { throw new DOMException('no', 'NotAllowedError'); }",
}
HOSTILE = "</pre><script>boom('x')</script>\"'&| 🦊"


class Page(HTMLParser):
    """What a test wants to know of a page.

    Attributes:
        ids: of its elements, with repetitions.
        links: targets of its links.
        sources: whatever it would load.
        images: attributes of its images.
        sections: headings of its sections.
        texts: of every element that has an id.
        tags: names of all elements.
        open: elements that have not been closed.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids, self.links, self.sources, self.images, self.sections, self.open, self.tags = [], [], [], [], [], [], []
        self.texts: dict[str, str] = {}
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))
        if "id" in attributes:
            self.ids.append(attributes["id"])
            self.texts[attributes["id"]] = ""
        (self.links if tag == "a" else self.sources).extend(attributes[key] for key in ("href", "src") if key in attributes)
        if tag == "img":
            self.images.append(attributes)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, identity in self.open:
            if identity is not None:
                self.texts[identity] += data
        if self.open and self.open[-1][0] == "h2":
            self.sections.append(data)

    def missing(self) -> list[str]:
        """What is said to be missing."""
        return [re.match("Missing: (.*?)[.] ", text)[1] for key, text in self.texts.items() if "-missing-" in key]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, synthetic_root) -> Path:
    return write_experiment(tmp_path_factory.mktemp("work_dirs") / "small", synthetic_root)


@pytest.fixture(scope="module")
def report(experiment) -> Path:
    """The report of the experiment, with one image in its gallery."""
    return write_report([experiment], experiment / "report.html", gallery=1)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report)


@pytest.mark.slow
def test_every_section_is_there(page):
    """All tables and figures; missing are the analyses, which were not made."""
    assert page.sections == [
        "Contents", "What was run", "Results", "Depth, spectrum and kept pairs", "Features", "Pretraining",
        "Computation and memory", "Detections", "Every run in detail", "How to get every number again", "What is missing"]
    assert page.missing() == ["Probes", "Spectrum", "Kept"]
    titles = [page.texts[f"{key}-title"] for key in page.ids if f"{key}-title" in page.texts]
    assert titles == [
        "Every run", "Every evaluation and analysis", "All results", "All results, after every stage", "AP by class",
        "AP of every split", "AP of every method, with its deviation over the splits", "t-SNE of the encoders' features",
        "Learning rules: blocks, units, heads, and how far down each gradient flows", "Training loss of every unit",
        "Contrastive accuracy of every unit", "Learning rate", "Images per second", "resnet18 on images of 40 px",
        "FLOPs and memory of every stage", "Memory of a step that local learning saves", "Ground truth and predictions"]


@pytest.mark.slow
def test_the_page_stands_alone(page, report):
    """Every link leads to one place in it, all that it shows is in it, and every image says in words what it shows."""
    assert len(set(page.ids)) == len(page.ids) and page.open == []
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert len(page.images) >= 8 and all(len(image["alt"]) > 30 for image in page.images)
    assert not re.search(r"@import|url\(|https?://", report.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["markdown", "latex"])
def test_copied_tables_are_those_of_the_tool(page, experiment, fmt):
    """Character by character what tools/table.py prints."""
    for place, options in enumerate([{}, dict(every_stage=True), dict(per_class=True)], start=1):
        assert page.texts[f"results-{place}-{fmt}"] == table_text(results_table([experiment], **options)[0], fmt)


@pytest.mark.slow
def test_memory_is_counted_for_both_views(page):
    """The tools count views, configs images: the figure is of twice the demo's 64."""
    assert "--batch-size 128" in page.texts["complexity-3-command"]


def test_hostile_texts_are_text(tmp_path, synthetic_root):
    """Names of methods, classes, data sets, folders and files, and messages: nothing of them becomes an element."""
    parent = tmp_path / HOSTILE.replace("/", "\\")
    identity = demo_identity("loco", model__method_name=HOSTILE)
    folder = write_detection(parent / "run", "random", [5.0], synthetic_root, dataset=HOSTILE, by_class={HOSTILE: 1.0},
                             detector=False, requested=2, errors={1: f"Traceback\n{HOSTILE}\n"}, identity=identity)
    (folder / "worse").mkdir()
    (folder / "worse" / "run.json").write_text(f'{{"format": "{HOSTILE[:9]}"}}')
    page = Page(write_report([parent], tmp_path / "report.html", gallery=0))
    assert page.tags.count("script") == 1 and page.open == []
    assert page.texts["results-1-markdown"] == table_text(results_table([parent])[0], "markdown")
    shown = "".join(page.texts.values())
    assert shown.count(HOSTILE) > 5 and parent.name in shown


@pytest.mark.parametrize(("cell", "number"), [
    ("1.5 ± 0.1", 1.5), ("-3%", -3), ("12.0 (+1.0)", 12), ("64×10×10", 64), ("1.31 G", 1.31e9), ("349 M", 349e6),
    ("133 MB", 133e6), ("2 KiB", 2048), ("5 of 5", 1), ("100 of 800 epochs", 0.125), ("0 of 0", 0), ("5 min 03 s", 5),
    ("06228e2072", None), ("2026-01-01", None), ("", None), ("loco", None)])
def test_the_number_that_a_cell_is_sorted_by(cell, number):
    """Prefixes of units count, progress is a share; hashes and dates are not numbers."""
    assert sort_number(cell) == (None if number is None else pytest.approx(number))


def test_columns_of_numbers():
    """Those of which every cell that is not missing begins with a number."""
    table = text_table("t", list("abcd"), [["1.5 ± 0.1", "06228e2072", "5 of 5", "2026-01-01"], ["-3%", "11", "", "7"]])
    assert numeric_columns(table) == [True, False, True, False]


@pytest.fixture(scope="module")
def browser():
    with headless_chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    """Opens a page in a window of some width; afterwards nothing may have been said or asked for."""
    heard, pages = [], []

    def open_page(file: Path, width: int = 1280, scheme: str = "light", script: str = ""):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or heard.append(request.url))
        page.add_init_script(script)
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert heard == []


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_it_opens_everywhere(opened, report, width, scheme):
    """No error and no request (see the fixture), every image seen, no sideways scrolling, links lead to what is seen."""
    page = opened(report, width, scheme)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    sizes = page.evaluate("[...document.images].map((image) => [image.naturalWidth, image.getBoundingClientRect().width])")
    assert len(sizes) >= 8 and all(natural > 0 and shown > 100 for natural, shown in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for link in page.locator("a:not(.skip)").all():
        link.click()
        target = page.locator(link.get_attribute("href"))
        target.wait_for(state="visible")
        assert -1 <= target.bounding_box()["y"] < 800


def first_column(page, table: str) -> list[str]:
    return page.locator(f"#{table} tbody th[scope=row]").all_text_contents()


@pytest.mark.slow
@in_browser
def test_sorting_by_click_and_by_keyboard(opened, report):
    """By the number that a cell begins with; the header says the direction, and what has no number stands last."""
    page = opened(report)
    header = page.locator("#results-1 thead th", has_text="bb")
    header.locator("button").click()
    assert first_column(page, "results-1") == ["random", "LoCo", "SimCLR", "GIM"]  # 5.5, 10.0, 13.0: as text 10 stood first
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert first_column(page, "results-1") == ["SimCLR", "LoCo", "random", "GIM"]
    page.locator("#results-1 thead th", has_text="Method").locator("button").click()
    assert first_column(page, "results-1") == ["GIM", "LoCo", "random", "SimCLR"]
    assert header.get_attribute("aria-sort") == "none"


@in_browser
def test_sorting_of_units_and_rows_without_a_number(opened, tmp_path):
    """A giga is more than hundreds of mega, 100 of 800 less than 5 of 5; rows without a number are seen on demand."""
    rows = [["w", "1.31 G", "13.5 GB", "5 of 5"], ["x", "349 M", "133 MB", "100 of 800"], ["y", "–", "1 GB", "–"],
            ["z", "2.5 G", "–", "3 of 6"], ["none", "–", "–", "–"]]
    section = Section("here", "Here", blocks=[Table("t", ["name", "a", "b", "c"], rows, "", "", labels=1)])
    file = tmp_path / "page.html"
    file.write_text(rendered(Contents("t", [], [section], "command", None)), encoding="utf-8")
    page = opened(file)
    for index, orders in enumerate([("xwzy", "zwxy"), ("xywz", "wyxz"), ("xzwy", "wzxy")], start=1):
        for order in orders:
            page.locator("thead th button").nth(index).click()
            assert first_column(page, "here-1")[:4] == [*order]
    hidden = page.locator("#here-1 tbody tr", has_text="none")
    assert not hidden.is_visible()
    page.locator("#here-1 .show-empty").check()
    assert hidden.is_visible()


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("script", CLIPBOARDS.values(), ids=CLIPBOARDS)
def test_copy_buttons(opened, report, page, script):
    """A table's copy its Markdown and LaTeX, a command's its text, also where a page has no clipboard."""
    opened_page = opened(report, script=script)
    opened_page.evaluate("document.body.append(document.createElement('textarea'))")
    field = opened_page.locator("textarea").last
    for key in ("results-1-markdown", "results-1-latex", "report-command"):
        button = opened_page.locator(f"[data-copy={key}]")
        button.click()
        opened_page.wait_for_function("button => button.textContent === 'Copied'", arg=button.element_handle())
        field.fill("")
        field.focus()
        opened_page.keyboard.press("Control+V")
        assert field.input_value() == page.texts[key]
