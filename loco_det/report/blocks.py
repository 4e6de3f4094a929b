"""What a report consists of: sections of tables, figures, runs, commands, and parts that are missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pretrain.engine.cli import note
from pretrain.errors import RunFailedError
from pretrain.results.formats import PLAIN, headings, lines, table_text
from pretrain.results.table import Row
from pretrain.results.table import Table as ResultsTable

ROOT = Path(__file__).resolve().parents[2]  # of the project, where its commands are typed


@dataclass(frozen=True)
class Table:
    """A table that can be sorted and copied.

    Attributes:
        title: its caption.
        header: titles of the columns.
        rows: cells of every row.
        markdown: the table as Markdown, to be copied.
        latex: the same as LaTeX.
        labels: how many columns, from the left, name a row; the others hold results.
        command: prints it again; None for one that only this report makes.
        notes: what its reader should know.
        folded: whether only its title is seen at first.
    """

    kind: ClassVar[str] = "table"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    markdown: str
    latex: str
    labels: int
    command: str | None = None
    notes: Sequence[str] = ()
    folded: bool = False


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
        state: ``finished``, ``unfinished`` or ``failed``.
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

        No part may cost its reader the others, so nothing at all that goes wrong in one leaves here. What is not a user's
        mistake is reported on stderr, too.
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


def shown_table(table: ResultsTable, title: str | None = None, **more: Any) -> Table:
    """A table of :mod:`pretrain.results.table` as it is shown.

    Args:
        table: the table.
        title: instead of its own.
        more: further attributes of :class:`Table`.
    """
    return Table(title or table.title, headings(table), lines(table, PLAIN), table_text(table, "markdown"),
                 table_text(table, "latex"), len(table.label_titles), notes=table.notes, **more)


def text_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]], **more: Any) -> Table:
    """A table of texts, of which empty ones count as missing; ``more`` are further attributes of :class:`Table`."""
    cells = [tuple(" ".join(str(cell).split()) or PLAIN.missing for cell in row) for row in rows]
    return shown_table(ResultsTable(title, list(header), [], [Row(row, {}) for row in cells]), **more)


def shown_path(path: str | Path) -> str:
    """A path as one would type it in the project's root: from there where it lies below, otherwise whole."""
    absolute = Path(os.path.abspath(path))  # links are not followed: they are what was given
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else str(absolute)


def duration_text(seconds: float | None) -> str:
    """A duration such as ``52 s``, ``4 min 31 s`` or ``3 h 05 min``; empty where it is not known."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
