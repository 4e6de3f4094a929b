"""Tables of accuracies in a form of their own, and how each output format spells them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from pretrain.tables import LATEX, MARKDOWN, Notation, csv_table, json_table, latex_table, markdown_table

Text = Callable[[Notation], str]


@dataclass(frozen=True)
class Group:
    """Neighbouring columns under one title.

    Attributes:
        title: what the columns have in common, empty for nothing to tell.
        headings: one for each column.
        short: stands for a long title in Markdown's headings, which have one line; the title is then told above the table.
            None for the title itself.
    """

    title: str
    headings: Sequence[str]
    short: str | None = None


@dataclass(frozen=True)
class Sheet:
    """A table, ready to be written.

    Attributes:
        name: as in the paper.
        label_titles: titles of the columns that name a row.
        groups: the other columns.
        lines: labels and cells of every row, spelled by a notation.
        numbers: the same as plain data, one dict for each score; also the JSON format.
        packages: of LaTeX that the table needs.
    """

    name: str
    label_titles: Sequence[str]
    groups: Sequence[Group]
    lines: Sequence[tuple[Sequence[Text], Sequence[Text]]]
    numbers: Sequence[dict[str, Any]]
    packages: Sequence[str] = ("booktabs",)


def literal(text: str) -> Text:
    """A cell that is the same in all notations."""
    return lambda notation: notation.escaped(text)


def check_choice(name: str, value: Any, known: Collection[Any]) -> None:
    """Checks an option.

    Raises:
        ValueError: it is none of those known; lists them.
    """
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known are {', '.join(map(str, known))}")


def _markdown(sheets: Sequence[Sheet]) -> str:
    texts = [_legend(sheet) + markdown_table(list(map(MARKDOWN.escaped, _headings(sheet))), _spelled_lines(sheet, MARKDOWN))
             for sheet in sheets]
    if len(sheets) == 1:
        return texts[0]
    return "\n".join(f"**{sheet.name}**\n\n{text}" for sheet, text in zip(sheets, texts, strict=True))


def _headings(sheet: Sheet) -> list[str]:
    """One line of headings that tell the group as well."""
    headings = list(sheet.label_titles)
    for group, name in zip(sheet.groups, _names(sheet.groups), strict=True):
        if group.short is not None and len(sheet.groups) == 1:
            headings += group.headings
        elif group.short is None and len(group.headings) == 1:
            headings.append(name or group.headings[0])
        else:
            headings += [f"{name}: {heading}" for heading in group.headings]
    return headings


def _legend(sheet: Sheet) -> str:
    """The titles that headings are too short for: of one group a line, of several a list."""
    shortened = [(name, group.title) for group, name in zip(sheet.groups, _names(sheet.groups), strict=True)
                 if group.short is not None]
    if not shortened:
        return ""
    lines = [shortened[0][1]] if len(sheet.groups) == 1 else [f"- {name}: {title}" for name, title in shortened]
    return "\n".join([*lines, "", ""])


def _names(groups: Sequence[Group]) -> list[str]:
    """What headings call each group; those that would be called alike are numbered."""
    names = [group.title if group.short is None else group.short for group in groups]
    numbers = {name: count(1) for name, times in Counter(names).items() if times > 1}
    return [f"{name} ({next(numbers[name])})" if name in numbers else name for name in names]


def _latex(sheets: Sequence[Sheet]) -> str:
    texts = []
    for sheet in sheets:
        header = [*sheet.label_titles, *chain(*(group.headings for group in sheet.groups))]
        groups = [(LATEX.escaped(group.title), len(group.headings)) for group in sheet.groups]
        texts.append(latex_table(list(map(LATEX.escaped, header)), _spelled_lines(sheet, LATEX), groups,
                                 len(sheet.label_titles), sheet.packages))
    if len(sheets) == 1:
        return texts[0]
    return "\n".join(f"% {sheet.name}\n{text}" for sheet, text in zip(sheets, texts, strict=True))


def _spelled_lines(sheet: Sheet, notation: Notation) -> list[list[str]]:
    return [[text(notation) for text in (*labels, *cells)] for labels, cells in sheet.lines]


def _csv(sheets: Sequence[Sheet]) -> str:
    rows = [row for sheet in sheets for row in sheet.numbers]
    return csv_table(list(dict.fromkeys(key for row in rows for key in row)), rows)


def _json(sheets: Sequence[Sheet]) -> str:
    return json_table(row for sheet in sheets for row in sheet.numbers)


FORMATS: Mapping[str, Callable[[Sequence[Sheet]], str]] = {
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}
