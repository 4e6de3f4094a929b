"""The report of a small experiment as a page: everything in it, and how it works in a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loco_det.html_report.blocks import Section, plain_table
from loco_det.html_report.contents import Contents
from loco_det.html_report.render import rendered, write_report
from loco_det.report import ap_report
from pretrain.readout.report import accuracy_report
from tests.loco_det.html_report.chromium import headless_chromium, missing_browser
from tests.loco_det.html_report.experiment import write_experiment

pytestmark = pytest.mark.slow
in_browser = pytest.mark.skipif(missing_browser() is not None, reason=missing_browser() or "")
WINDOWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
VOID = {"meta", "link", "img", "input", "br", "wbr"}
CLIPBOARDS = {  # what a page may meet with, as a script that runs before its own
    "any": "",
    "none": "delete Navigator.prototype.clipboard",
    "refused": "navigator.clipboard.writeText = async () => { throw new DOMException('no', 'NotAllowedError'); }",
}
AP_TABLE = "#detection-1"


class Page(HTMLParser):
    """What a test wants to know of a page.

    Attributes:
        ids: of its elements, with repetitions.
        links: targets of its links.
        sources: whatever it would load.
        images: attributes of its images.
        headings: levels and texts of headings.
        texts: of every element that has an id.
        open: elements that have not been closed.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.images: list[dict[str, str]] = []
        self.headings: list[tuple[int, str]] = []
        self.texts: dict[str, str] = {}
        self.open: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in VOID:
            self.open.append((tag, attributes.get("id")))
        if "id" in attributes:
            self.ids.append(attributes["id"])
            self.texts[attributes["id"]] = ""
        if tag == "a":
            self.links.append(attributes["href"])
        elif "href" in attributes:
            self.sources.append(attributes["href"])
        if "src" in attributes:
            self.sources.append(attributes["src"])
        if tag == "img":
            self.images.append(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data):
        for _, identity in self.open:
            if identity is not None:
                self.texts[identity] += data
        if self.open and re.fullmatch("h[1-6]", self.open[-1][0]):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, synthetic_root) -> Path:
    return write_experiment(tmp_path_factory.mktemp("work_dirs") / "small", synthetic_root)


@pytest.fixture(scope="module")
def report(experiment) -> Path:
    """The report of the experiment, with one image in its gallery."""
    return write_report([experiment], experiment / "report.html", gallery=1)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_every_section_table_and_figure_is_there(page):
    """Headings in order, none left out by a level; the tables and drawings of every section."""
    levels, titles = zip(*page.headings, strict=True)
    assert levels[0] == 1 and titles[0] == "LoCo-Det: small"
    assert all(deeper - level <= 1 for level, deeper in zip(levels, levels[1:], strict=False))
    sections = [title for level, title in page.headings if level == 2]
    assert sections == ["Contents", "What was run", "Detection and instance segmentation", "Linear evaluation and kNN",
                        "Depth, spectrum and kept pairs", "Features", "Pretraining", "Computation and memory", "Detections",
                        "Every run in detail", "How to get every number again", "What is missing"]
    tables = [text for key, text in page.texts.items() if key.endswith("-title") and f"{key.removesuffix('-title')}-latex"
              in page.texts]
    assert [title.partition(",")[0] for title in tables] == [
        "Every run", "Every readout and analysis", "AP", "Every split", "Top-1 accuracy (%) after the last stage",
        "Top-1 accuracy (%) after every stage", "resnet18 on images of 40 px"]
    drawings = {title for level, title in page.headings if level == 3}
    assert drawings >= {"AP of every method, with its deviation over the splits", "Training loss of every unit",
                        "Learning rules: blocks, units, decoders, and how far down each gradient flows",
                        "FLOPs and memory of every stage", "Memory of a step that local learning saves",
                        "Ground truth and predictions", "t-SNE of the encoders' features"}


def test_only_what_does_not_exist_is_missing(page):
    """The analyses were not made, which the page says at their places; nothing else lacks, and nothing failed."""
    missing = {key: text for key, text in page.texts.items() if "-missing-" in key}
    assert [text.partition(".")[0] for text in missing.values()] == ["Missing: Probes", "Missing: Spectrum", "Missing: Kept"]
    assert all("tools/analyze.py" in text for text in missing.values())


def test_the_page_stands_alone(page, report):
    """Every link leads to one place within it, everything it shows is in it, every image says in words what it shows."""
    assert len(set(page.ids)) == len(page.ids)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.sources and all(source.startswith("data:") for source in page.sources)
    assert len(page.images) >= 8 and all(len(image["alt"]) > 30 for image in page.images)
    assert not re.search(r"@import|url\(|https?://", report.read_text(encoding="utf-8").replace("data:", ""))
    assert page.open == []


def test_copied_tables_are_those_of_the_tools(page, experiment):
    """Markdown and LaTeX within the page equal what the report tools print, character by character."""
    for fmt in ("markdown", "latex"):
        assert page.texts[f"detection-1-{fmt}"] == ap_report([experiment], fmt=fmt).text
        assert page.texts[f"readout-1-{fmt}"] == accuracy_report([experiment], 1, fmt=fmt).text


def test_memory_is_counted_for_both_views(page):
    """The tools count views apart, configs images: the figure is of twice the demo's 64, and its caption tells both."""
    assert "--batch-size 128" in page.texts["complexity-3-command"]
    assert any(re.search(r"128 (views|images) .*64 images, 128 views\.$", image["alt"]) for image in page.images)


def test_commands_name_what_was_run(page, experiment):
    """Config, folders and backbone of every run, and the options of a readout."""
    commands = "\n".join(text for key, text in page.texts.items() if key.endswith("-command"))
    for rule in ("simclr", "gim", "loco"):
        assert f"tools/pretrain.py configs/pretrain/{rule}_resnet18_demo.py --data-root " in commands
    assert re.search(r"tools/train_det.py configs/mask_rcnn_loco_demo.py .*--cfg-options protocol.num_splits=2 "
                     rf"--pretrained loco.pth --work-dir {experiment}/mask_rcnn_loco", commands)
    checkpoint = f"{experiment}/pretrain_loco/epoch_5.pth"
    assert (f"tools/linear_eval.py {checkpoint} --protocol paper --data cifar10 --data-root DATA/cifar10 "
            "--train-split train --test-split test --epochs 100 --lr 30.0 --image-size 40 --seed 0") in commands


@pytest.fixture(scope="module")
def browser():
    with headless_chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, report):
    """Opens the report in a window of some width; afterwards nothing may have been said or asked for."""
    heard, pages = [], []

    def open_page(width: int = 1280, scheme: str = "light", script: str = ""):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or heard.append(request.url))
        page.add_init_script(script)
        page.goto(report.as_uri())
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert heard == []


@in_browser
@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_it_opens_everywhere(opened, width, scheme):
    """No error and no request to a network (see the fixture), every image seen, no sideways scrolling, links resolve."""
    page = opened(width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    sizes = page.evaluate("[...document.images].map((image) => [image.naturalWidth, image.getBoundingClientRect().width])")
    assert len(sizes) >= 8 and all(natural > 0 and shown > 100 for natural, shown in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor") == "rgb(255, 255, 255)"
    for link in page.locator("a:not(.skip)").all():
        link.click()
        target = page.locator(link.get_attribute("href"))
        assert target.count() == 1
        target.wait_for(state="visible")
        assert -1 <= target.bounding_box()["y"] < 800


def first_column(page, table: str) -> list[str]:
    return page.locator(f"{table} tbody th[scope=row]").all_text_contents()


@in_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_sorting_by_click_and_by_keyboard(opened, width):
    """By the number that a cell begins with, not by its text; the header says the direction; both ways lead there."""
    page = opened(width)
    methods = first_column(page, AP_TABLE)
    assert methods == ["random", "simclr", "loco"]
    header = page.locator(f"{AP_TABLE} thead th", has_text="bb")
    header.locator("button").click()
    assert first_column(page, AP_TABLE) == ["random", "loco", "simclr"]  # 5.5, 10.0, 13.0: as text 10 stood first
    assert header.get_attribute("aria-sort") == "ascending"
    header.locator("button").focus()
    page.keyboard.press("Enter")
    assert first_column(page, AP_TABLE) == ["simclr", "loco", "random"]
    assert header.get_attribute("aria-sort") == "descending"
    page.locator(f"{AP_TABLE} thead th", has_text="Method").locator("button").focus()
    page.keyboard.press("Space")
    assert first_column(page, AP_TABLE) == ["loco", "random", "simclr"]
    assert header.get_attribute("aria-sort") == "none"
    assert page.locator("#announcement").text_content() == "sorted by Method, ascending"


@in_browser
def test_sorting_of_units(browser, tmp_path):
    """Prefixes and shares count: a giga is more than hundreds of mega, 100 of 800 is less than 5 of 5."""
    rows = [["w", "1.31 G", "13.5 GB", "5 of 5"], ["x", "349 M", "133 MB", "100 of 800"], ["y", "–", "1 GB", "–"],
            ["z", "2.5 G", "–", "3 of 6"]]
    section = Section("here", "Here", blocks=[plain_table("t", ["name", "a", "b", "c"], rows)])
    file = tmp_path / "page.html"
    file.write_text(rendered(Contents("t", [], [section], "command", None)), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    for index, orders in enumerate([("xwzy", "zwxy"), ("xywz", "wyxz"), ("xzwy", "wzxy")], start=1):
        for order in orders:
            page.locator("thead th button").nth(index).click()
            assert first_column(page, "#here-1") == list(order)
    page.close()


@in_browser
def test_what_has_no_number_stands_last_and_can_be_hidden(opened):
    """In either direction, rows of the paper without a result of ours follow; they are seen on demand only."""
    page = opened()
    rows = page.locator("#readout-1 tbody tr")
    shown = rows.filter(visible=True).count()
    assert 0 < shown < rows.count()
    header = page.locator("#readout-1 thead th.number button").first
    for order in (["40.0", "45.0", "50.0"], ["50.0", "45.0", "40.0"]):
        header.click()
        values = page.locator("#readout-1 tbody tr td.number:last-child").all_text_contents()
        assert [value[:4] for value in values[:3]] == order and set(values[3:]) == {"–"}
    page.locator("#readout-1 .show-empty").check()
    assert rows.filter(visible=True).count() == rows.count()


@in_browser
@pytest.mark.parametrize("script", CLIPBOARDS.values(), ids=CLIPBOARDS)
def test_copy_buttons(opened, page, script):
    """What a table's buttons copy is its Markdown and LaTeX, a command's its text, also where a page has no clipboard."""
    opened_page = opened(script=script)
    opened_page.evaluate("document.body.append(document.createElement('textarea'))")
    field = opened_page.locator("textarea").last
    for key in ("detection-1-markdown", "detection-1-latex", "runs-1-markdown", "report-command"):
        button = opened_page.locator(f"[data-copy={key}]")
        button.click()
        opened_page.wait_for_function("button => button.textContent === 'Copied'", arg=button.element_handle())
        field.fill("")
        field.focus()
        opened_page.keyboard.press("Control+V")
        assert field.input_value() == page.texts[key]


@in_browser
def test_printing_shows_what_is_folded(opened):
    """Details are open on paper, and folded again on the screen."""
    page = opened()
    before = page.locator("details[open]").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == before
