"""Labels that are unique in a figure, and that find room where they stand."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend

CHARACTER = 0.0089  # inches a point that a character is wide on average, and a little more
LEGEND_SIZE = 7  # points, as of the style
LEGEND_LINE, LEGEND_HANDLE = 0.16, 0.42  # inches: height of a line, and width of a handle with the gaps around it
SUFFIXES = (".pth", ".py", ".json")  # of files that figures are drawn of


def unique_labels_by_path(labels: Sequence[str], paths: Sequence[str | Path], form: str = "{label} ({hint})") -> list[str]:
    """Labels as they are where they are unique, and otherwise with as much of their paths as differs.

    Of ``x/run`` and ``y/run`` that is ``x`` and ``y``, of ``a/epoch_3.pth`` and ``a/epoch_5.pth`` it is ``epoch_3`` and
    ``epoch_5``. Equal labels of equal paths stay as they are.

    Args:
        labels: such as methods.
        paths: what is drawn, a file or folder a label.
        form: how a label and its hint are joined.
    """
    unique = list(labels)
    for label in set(labels):
        alike = [index for index, other in enumerate(labels) if other == label]
        for index, hint in zip(alike, _hints([paths[index] for index in alike]), strict=True):
            unique[index] = form.format(label=label, hint=hint) if hint else label
    return unique


def _hints(paths: Sequence[str | Path]) -> list[str]:
    """The shortest ends of paths in which different ones differ, without what all end in; empty where none differs."""
    parts = [_parts(path) for path in paths]
    different = len(set(parts))
    if different == 1:
        return [""] * len(parts)
    while len({each[-1] for each in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [each[:-1] for each in parts]
    ends = ([each[-depth:] for each in parts] for depth in range(1, max(map(len, parts)) + 1))
    return ["/".join(end) for end in next(found for found in ends if len(set(found)) == different)]


def _parts(path: str | Path) -> tuple[str, ...]:
    path = Path(os.path.abspath(path))
    return (*path.parts[1:-1], path.name.removesuffix(path.suffix) if path.suffix in SUFFIXES else path.name)


def wrapped(text: str, inches: float, points: float) -> list[str]:
    """Lines of text that fit a width at a size of type; lines of ``text`` stay apart."""
    characters = max(1, int(inches / (CHARACTER * points)))
    return [line for given in text.split("\n") for line in textwrap.wrap(given, characters)]


def legend_height(labels: Sequence[str], width: float) -> float:
    """Inches that a legend of :func:`outside_legend` takes of a figure that is ``width`` inches wide."""
    texts, columns = _legend_texts(labels, width)
    lines = [text.count("\n") + 1 for text in texts]
    rows = math.ceil(len(lines) / columns)
    return LEGEND_LINE * max((sum(lines[start:start + rows]) for start in range(0, len(lines), rows or 1)), default=0)


def outside_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], loc: str = "upper center") -> Legend:
    """A legend above or below all axes that is no wider than the figure: in as many columns as fit, long labels in lines.

    Args:
        figure: of constrained layout.
        handles: what the labels stand for; their own labels do not count.
        labels: shown as they are, whatever they begin with.
        loc: ``upper center`` or ``lower center``.
    """
    texts, columns = _legend_texts(labels, figure.get_figwidth())
    return figure.legend(handles=handles, labels=texts, loc=f"outside {loc}", ncols=columns, columnspacing=1.2,
                         handlelength=1.6)


def _legend_texts(labels: Sequence[str], width: float) -> tuple[list[str], int]:
    """The labels in lines, and how many fit side by side."""
    texts = ["\n".join(wrapped(label, width - LEGEND_HANDLE, LEGEND_SIZE)) for label in labels]
    longest = max((len(line) for text in texts for line in text.split("\n")), default=0)
    columns = int(width / (LEGEND_HANDLE + CHARACTER * LEGEND_SIZE * longest))
    return texts, max(1, min(columns, len(texts)))
