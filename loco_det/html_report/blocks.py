"""What a report is made of: sections of tables, figures, runs, commands, and parts that are missing."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

from pretrain.cli import note
from pretrain.errors import RunFailedError
from pretrain.tables import LATEX, MARKDOWN, latex_table, markdown_table

ROOT = Path(__file__).resolve().parents[2]  # of the project, where its commands are typed


@dataclass(frozen=True)
class Row:
    """A row of a table as its reader sees it: the cells, or one heading over the rows that follow."""

    cells: Sequence[str]
    heading: str | None = None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and copied.

    Attributes:
        title: its caption.
        markdown: the table as Markdown: what is shown, and what is copied.
        latex: the same for LaTeX.
        command: prints it again; None for one that only this report makes.
        warnings: what its reader should be warned of.
        notes: what else to know of it.
        folded: whether only its title is seen at first.
    """

    kind: ClassVar[str] = "table"
    title: str
    markdown: str
    latex: str
    command: str | None = None
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    folded: bool = False

    @property
    def legend(self) -> list[str]:
        """What stands above the table: its title, or what its headings mean."""
        above = takewhile(lambda line: not line.startswith("|"), self.markdown.splitlines())
        return [line.removeprefix("- ") for line in above if line]

    @property
    def header(self) -> Sequence[str]:
        """Titles of the columns."""
        return _cells(_table_lines(self.markdown)[0])

    @property
    def rows(self) -> list[Row]:
        """All rows below the header."""
        return [_row(_cells(line)) for line in _table_lines(self.markdown)[2:]]


@dataclass(frozen=True)
class Figure:
    """A drawing as an image within the page.

    Attributes:
        title: what it is called.
        caption: what it shows; its alternative text as well.
        source: data URI of the image.
        width: in CSS pixels, at which its text is as large as in print.
        command: draws it again; None where no command can.
    """

    kind: ClassVar[str] = "figure"
    title: str
    caption: str
    source: str
    width: int
    command: str | None = None


@dataclass(frozen=True)
class Missing:
    """A part that the report would have, and why it has not."""

    kind: ClassVar[str] = "missing"
    title: str
    reason: str
    anchor: str = ""


@dataclass(frozen=True)
class Commands:
    """Commands to type, one a line, and what to know before."""

    kind: ClassVar[str] = "commands"
    title: str
    lines: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class RunCard:
    """One run in detail.

    Attributes:
        title: what it is called.
        state: ``finished``, ``unfinished``, ``failed`` or ``damaged``.
        progress: how far it came.
        facts: names and values.
        problems: messages, the short form and, where there is one, the whole text of each.
    """

    kind: ClassVar[str] = "run"
    title: str
    state: str
    progress: str
    facts: Sequence[tuple[str, str]]
    problems: Sequence[tuple[str, str]] = ()


Block = Table | Figure | Missing | Commands | RunCard


@dataclass
class Section:
    """A part of the report under a heading.

    Attributes:
        anchor: what links to it are called.
        title: the heading.
        intro: one line below it; may be empty.
        blocks: what it holds.
    """

    anchor: str
    title: str
    intro: str = ""
    blocks: list[Block] = field(default_factory=list)

    def add(self, title: str, make: Callable[..., Block | Iterable[Block]], *args: Any) -> None:
        """Adds what ``make(*args)`` returns; where it raises, says that ``title``, or the rest of it, is missing and why."""
        with self.guarded(title):
            made = make(*args)
            for block in [made] if isinstance(made, Block) else made:
                if isinstance(block, Missing):
                    self.add_missing(block.title, block.reason)
                else:
                    self.blocks.append(block)

    @contextmanager
    def guarded(self, title: str) -> Iterator[None]:
        """Says that ``title``, or the rest of it, is missing and why, where what is done within raises.

        No part may cost its reader the others, so that nothing at all that goes wrong in one leaves here. What is not a
        mistake of the user's is told on stderr, too.
        """
        try:
            yield
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, ValueError | OSError | RunFailedError):
                reason = f"{type(error).__name__}: {reason}"
                note(f"warning: {title} is missing in the report: {reason}")
            self.add_missing(title, reason)

    def add_missing(self, title: str, reason: str) -> None:
        """Says that a part is missing and why."""
        number = sum(isinstance(block, Missing) for block in self.blocks) + 1
        self.blocks.append(Missing(title, reason, f"{self.anchor}-missing-{number}"))

    @property
    def missing(self) -> list[Missing]:
        """All that is missing here."""
        return [block for block in self.blocks if isinstance(block, Missing)]


def plain_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], **more: Any) -> Table:
    """A table of texts; ``more`` are further attributes of :class:`Table`."""
    rows = list(rows)
    texts = []
    for notation, write in ((MARKDOWN, markdown_table), (LATEX, latex_table)):
        def spelled(cells: Sequence[str], notation=notation) -> list[str]:
            return [notation.escaped(_one_line(cell)) if cell else notation.missing for cell in cells]

        texts.append(write(spelled(header), [spelled(row) for row in rows]))
    return Table(title, *texts, **more)


def shown_path(path: str | Path) -> str:
    """A path as one would type it in the project's root: from there where it lies below, otherwise whole."""
    absolute = Path(os.path.abspath(path))  # links are not followed: they are what was given
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(absolute)


def recorded_place(path: str | Path) -> Path:
    """Where a path leads that a run recorded: runs are started in the project's root."""
    return ROOT / path


def spelled_seconds(seconds: float | None) -> str:
    """A duration such as ``52 s``, ``4 min 31 s`` or ``3 h 05 min``; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _table_lines(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if line.startswith("|")]


def _cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, in which a pipe that is text is escaped."""
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def _row(cells: list[str]) -> Row:
    match = re.fullmatch(r"\*\*(.+)\*\*", cells[0])
    return Row(cells, match[1]) if match and not any(cells[1:]) else Row(cells)
