"""Tables as text: aligned for a terminal, Markdown, LaTeX (booktabs), CSV and JSON."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.results.store import read_rows, tidy
from pretrain.results.table import METRIC_TITLES, Cell, Column, Row, Table

PERCENT = re.compile(r"((bbox|segm|official)_AP\w*|(train_)?top\d)$")  # metrics in points or percent
_LATEX_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "✓": r"$\checkmark$"
                  } | {character: "\\" + character for character in "&%$#_{}"}
_FORMULA = re.compile(r"[=+@\t\r]|-(?![\d.]+$)")  # what a spreadsheet would carry out at the beginning of a cell


@dataclass(frozen=True)
class Notation:
    """How a format writes cells.

    Attributes:
        missing: stands where there is no value.
        plus_minus: sign between a mean and its deviation.
        signed: writes a number with its sign, given as ASCII.
        escaped: writes a text literally.
    """

    missing: str
    plus_minus: str
    signed: Callable[[str], str]
    escaped: Callable[[str], str]


def _latex_escaped(text: str) -> str:
    return "".join(_LATEX_ESCAPES.get(character, character) for character in text)


PLAIN = Notation("–", "±", signed=str, escaped=str)
MARKDOWN = Notation("–", "±", signed=str, escaped=lambda text: text.replace("|", r"\|").replace("\n", " "))
LATEX = Notation("--", r"$\pm$", signed=lambda number: f"${number}$", escaped=_latex_escaped)


def value_text(metric: str, value: float) -> str:
    """A value as tables show it: AP and accuracies with one decimal, ``1.31 G`` multiply-adds, ``13.5 GB``."""
    if metric.endswith("_macs"):
        scaled, prefix = (value / 1e9, "G") if value >= 1e9 else (value / 1e6, "M")
        return f"{f'{scaled:#.3g}'.rstrip('.')} {prefix}"
    if metric.endswith("_bytes"):
        return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
    return f"{value:.1f}" if PERCENT.match(metric) else f"{value:.4g}"


def cell_text(cell: Cell | None, metric: str, notation: Notation = PLAIN) -> str:
    """A cell such as ``22.6 ± 0.2 (-3.0) (3/5)``; an en dash where there is no value."""
    if cell is None:
        return notation.missing
    text = notation.missing if cell.mean is None else value_text(metric, cell.mean)
    if cell.std is not None:
        text += f" {notation.plus_minus} {value_text(metric, cell.std)}"
    if cell.delta is not None:
        number = value_text(metric, cell.delta)
        number = number if number.startswith("-") and float(number.split()[0]) else f"+{number.removeprefix('-')}"
        text += f" ({notation.signed(number)})"
    return text if cell.n is None or cell.n == cell.of else f"{text} ({cell.n}/{cell.of})"


def table_text(table: Table, fmt: str) -> str:
    """A table in a format, ending in a newline.

    Args:
        table: the table.
        fmt: a key of :data:`FORMATS`.

    Raises:
        ValueError: the format is unknown.
    """
    if fmt not in FORMATS:
        raise ValueError(f"unknown format {fmt!r}; known are {', '.join(FORMATS)}")
    return FORMATS[fmt](table)


def tidy_text(paths: Iterable[str | os.PathLike[str]], fmt: str) -> tuple[str, list[str]]:
    """Every measurement below some folders as a row with all its metadata, and warnings.

    Args:
        paths: records, or folders above several.
        fmt: ``csv`` or ``json``.

    Raises:
        ValueError: there are no results, or it is another format.
    """
    if fmt not in ("csv", "json"):
        raise ValueError(f"--tidy has no format {fmt!r}; choose csv or json")
    frame, _, warnings = read_rows(paths)
    rows = tidy(frame).astype(object).where(lambda values: values.notna(), None).to_dict("records")
    return csv_text(rows) if fmt == "csv" else json.dumps({"rows": rows}, allow_nan=False) + "\n", warnings


def headings(table: Table) -> list[str]:
    """Titles of all columns, each with what stands above it."""
    return [*table.label_titles, *(f"{column.title} {column.heading}" for column in table.columns)]


def lines(table: Table, notation: Notation) -> list[list[str]]:
    """The cells of every row, labels first."""
    return [[*(notation.escaped(label) or "" for label in row.labels),
             *(cell_text(row.cells.get(column), column.metric, notation) for column in table.columns)] for row in table.rows]


def numbers(table: Table) -> list[dict[str, Any]]:
    """The numbers of a table as plain data: one dict for each row and column that has a cell; also the JSON format.

    Returns:
        The row's labels under their titles in snake case, then ``dataset``, ``protocol``, ``stage``, ``metric``, ``source``
        (``ours`` or ``paper``), ``column`` (the hint of its title), ``mean``, ``std``, ``delta``, ``n``, ``of``. None stands
        for what does not exist.
    """
    return [_numbers(table, row, column, cell) for row in table.rows for column in table.columns
            if (cell := row.cells.get(column)) is not None]


def _numbers(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    names = [re.sub(r"\W+", "_", title.lower()) for title in table.label_titles]
    return {**dict(zip(names, row.labels, strict=True)), "dataset": column.dataset, "protocol": column.protocol,
            "stage": column.stage, "metric": column.metric, "source": "paper" if column.paper else "ours",
            "column": column.hint, "mean": cell.mean, "std": cell.std, "delta": cell.delta, "n": cell.n, "of": cell.of}


def _text(table: Table) -> str:
    body = [headings(table), *lines(table, PLAIN)]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    body.insert(1, ["-" * width for width in widths])
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
                   for line in body)


def _markdown(table: Table) -> str:
    return markdown_table([MARKDOWN.escaped(heading) for heading in headings(table)], lines(table, MARKDOWN))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells in :data:`MARKDOWN` notation."""
    return "".join("| " + " | ".join(line) + " |\n" for line in (head, ["---"] * len(head), *rows))


def _latex(table: Table) -> str:
    labels = len(table.label_titles)
    titles = itertools.groupby(column.title for column in table.columns)
    groups = [(title, len(list(columns))) for title, columns in titles]
    rules, first = [], labels + 1
    for _, width in groups:
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    over = [*[""] * labels, *(rf"\multicolumn{{{width}}}{{c}}{{{_latex_escaped(title)}}}" for title, width in groups)]
    head = [*map(_latex_escaped, table.label_titles), *(_latex_heading(column) for column in table.columns)]
    body = map(_latex_line, lines(table, LATEX))
    return "\n".join([r"% needs \usepackage{booktabs,amssymb}",
                      rf"\begin{{tabular}}{{{'l' * labels}{'c' * len(table.columns)}}}", r"\toprule",
                      *([_latex_line(over), " ".join(rules)] if groups else []), _latex_line(head), r"\midrule", *body,
                      r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells).lstrip() + r" \\"


def _latex_heading(column: Column) -> str:
    title = METRIC_TITLES.get(column.metric, column.metric)
    base, power, exponent = title.partition("^")
    return _latex_escaped(column.heading).replace(_latex_escaped(title), f"{base}$^{{{exponent}}}$" if power else
                                                  _latex_escaped(title))


def _csv(table: Table) -> str:
    return csv_text(numbers(table))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; None is an empty field, and what a spreadsheet would carry out as a formula begins with an apostrophe."""
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
                         for key, value in row.items()})
    return buffer.getvalue()


def _json(table: Table) -> str:
    content = {"title": table.title, "rows": numbers(table), "notes": list(table.notes)}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Table], str]] = {
    "text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv, "json": _json,
}
