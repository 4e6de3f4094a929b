"""A report as one HTML file: nothing in it comes from anywhere else."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from loco_det.report import DEFAULT_GALLERY
from loco_det.report.blocks import Table
from loco_det.report.contents import Contents, report_contents
from loco_det.report.sorting import numeric_columns, sort_number
from pretrain.engine.work_dir import check_writable, write_text
from pretrain.results.formats import PLAIN

_POWER = re.compile(r"\b(AP\d*)\^(\w+)")


def write_report(
    directories: Sequence[str | Path],
    out: str | Path,
    gallery: int = DEFAULT_GALLERY,
    data_root: str | Path | None = None,
) -> Path:
    """Writes what lies below some folders as one HTML page, which needs no other file and no network.

    Args:
        directories: work directories of pretrainings and detection experiments, or folders above them; evaluations and
            analyses are found there, too. Runs may be unfinished or have failed.
        out: the file to write.
        gallery: validation images in the gallery of detections, drawn at random; 0 for none.
        data_root: folder of the detection data set; None for where it lay when the detectors were trained.

    Returns:
        The file.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing below them to report of, or the file cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name the file to write, such as {out / 'report.html'}")
    check_writable(out.parent)
    text = rendered(report_contents(directories, out, gallery, data_root))
    write_text(out, text.encode("utf-8", "backslashreplace").decode())  # names of files need not be UTF-8
    return out


def rendered(contents: Contents) -> str:
    """The page as text; whatever it shows is escaped."""
    environment = Environment(
        loader=PackageLoader("loco_det.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"marked_up": _marked_up, "breakable": _breakable, "unbroken_words": _unbroken_words}
    environment.globals |= {
        "numeric_columns": numeric_columns, "sort_number": sort_number, "empty_rows": _empty_rows, "source_of": _source_of,
    }
    return environment.get_template("report.html").render(contents=contents, written=time.strftime("%Y-%m-%d %H:%M"))


def _marked_up(text: str) -> Markup:
    """Text with the powers of AP^bb and AP^mk raised."""
    return Markup(_POWER.sub(r"\1<sup>\2</sup>", str(escape(text))))


def _breakable(text: str) -> Markup:
    """Text that may be broken behind the folders of a path."""
    return escape(text).replace("/", Markup("/<wbr>"))


def _unbroken_words(text: str) -> Markup:
    """Text that is not broken behind the hyphens of options; a browser reads it as it was."""
    return Markup(re.sub(r"\S+", lambda word: f"<span>{word[0]}</span>", str(escape(text))))


def _empty_rows(table: Table) -> list[Sequence[str]]:
    """The rows of a table of results that have none."""
    return [row for row in table.rows if row[table.labels:] and all(cell == PLAIN.missing for cell in row[table.labels:])]


def _source_of(name: str) -> Markup:
    """A template's file as it stands, for styles and scripts within the page."""
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))
