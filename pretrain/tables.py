"""Tables of results as text: Markdown, LaTeX (booktabs), CSV and JSON.

This module needs the standard library only: writing a table must not wait for torch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
} | {character: "\\" + character for character in "&%$#_{}"}


def latex_escaped(text: str) -> str:
    """``text`` as LaTeX prints it literally."""
    return "".join(_LATEX_ESCAPES.get(character, character) for character in text)


def epochs(number: int) -> str:
    """How tables spell the length of a schedule."""
    return f"{number} epoch" if number == 1 else f"{number} epochs"


@dataclass(frozen=True)
class Report:
    """A table as text, ending in a newline, what its reader should be warned of, and what else to know of it."""

    text: str
    warnings: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Heading:
    """A title over the rows that follow it, as wide as the table."""

    title: str


@dataclass(frozen=True)
class Notation:
    """How a format spells the cells of a table.

    Attributes:
        missing: stands where there is no value.
        plus_minus: sign between a mean and its deviation.
        check: marks what a row has.
        signed: spells a number with its sign, given as ASCII.
        escaped: spells a text literally.
    """

    missing: str
    plus_minus: str
    check: str
    signed: Callable[[str], str]
    escaped: Callable[[str], str]

    def score(self, mean: float | None, std: float | None = None, delta: float | None = None) -> str:
        """A mean, its deviation and the difference to a baseline in brackets, one decimal each: ``22.6 ± 0.2 (-3.0)``."""
        text = self.missing if mean is None else f"{mean:.1f}"
        if std is not None:
            text += f" {self.plus_minus} {std:.1f}"
        if delta is not None:
            number = f"{delta:+.1f}"
            text += f" ({self.signed('+0.0' if number == '-0.0' else number)})"
        return text


MARKDOWN = Notation("–", "±", "✓", signed=str, escaped=lambda text: text.replace("|", r"\|"))
LATEX = Notation("--", r"$\pm$", r"$\checkmark$", signed=lambda number: f"${number}$", escaped=latex_escaped)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str] | Heading]) -> str:
    """A Markdown table of cells in :data:`MARKDOWN` notation."""

    def line(row: Sequence[str] | Heading) -> str:
        cells = [f"**{row.title}**", *[""] * (len(header) - 1)] if isinstance(row, Heading) else row
        return "| " + " | ".join(cells) + " |\n"

    return "".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def latex_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str] | Heading],
    groups: Sequence[tuple[str, int]] = (),
    labels: int = 1,
    packages: Sequence[str] = ("booktabs",),
) -> str:
    """A booktabs table of cells in :data:`LATEX` notation.

    Args:
        header: titles of the columns.
        rows: cells of every row, and headings over some.
        groups: titles over neighbouring columns after the labels, each with its number of columns; none for no such line.
        labels: number of columns, from the left, that name the row.
        packages: what the table needs, which a comment says.
    """

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells).lstrip() + r" \\"

    alignment = "l" * labels + "c" * (len(header) - labels)
    lines = [rf"% needs \usepackage{{{','.join(packages)}}}", rf"\begin{{tabular}}{{{alignment}}}", r"\toprule"]
    if groups:
        lines.append(line([*[""] * labels, *(rf"\multicolumn{{{width}}}{{c}}{{{title}}}" for title, width in groups)]))
        rules, first = [], labels + 1
        for _, width in groups:
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
            first += width
        lines.append(" ".join(rules))
    lines += [line(header), r"\midrule"]
    for row in rows:
        if not isinstance(row, Heading):
            lines.append(line(row))
            continue
        if lines[-1] != r"\midrule":
            lines.append(r"\midrule")
        lines += [rf"\multicolumn{{{len(header)}}}{{c}}{{{row.title}}} \\", r"\midrule"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def csv_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of exactly these columns as CSV; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def json_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """``{"rows": [...]}`` as standard JSON (no NaN)."""
    return json.dumps({"rows": list(rows)}, indent=2, allow_nan=False) + "\n"
