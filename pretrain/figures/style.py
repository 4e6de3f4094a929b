"""One look for all figures: sizes, fonts and legends for a paper's column, and one colour per method and class.

Figures are made without pyplot, so that nothing global changes and no display is needed. Equal figures are equal files, byte
for byte.
"""

from __future__ import annotations

import hashlib
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from pretrain.results.method import Method

COLUMN_WIDTH, TEXT_WIDTH = 3.3, 6.8  # inches, of a paper in two columns
PNG_DPI = 200
TEXT_SIZE, SMALL_SIZE = 8, 7  # points
CHARACTER = 0.0089  # inches per point that a character is wide on average, and a little more
LEGEND_LINE, LEGEND_HANDLE = 0.16, 0.42  # inches: height of a line, and width of a handle with the gaps around it

# Okabe and Ito's palette, which people of all kinds of colour vision can distinguish
BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7"
BLACK, DARK_GREY, GREY, LIGHT_GREY = "#000000", "#5A5A5A", "#8C8C8C", "#D9D9D9"
METHOD_COLORS = {
    "random": DARK_GREY, "supervised": BLACK, "simclr": BLUE, "gim": ORANGE, "loco": GREEN,
    "decoupled1": BLUE, "decoupled4": SKY, "decoupled8": PURPLE, "decoupled16": VERMILION,  # K = 1 is end to end
}
OTHER_COLORS = ("#7B2CFF", "#8C2D19", "#4B0055", "#6B3E00")
CLASS_COLORS = (  # Paul Tol's muted scheme
    "#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99", "#AA4499", "#999933", "#777777")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": TEXT_SIZE, "axes.titlesize": TEXT_SIZE, "axes.labelsize": TEXT_SIZE, "legend.fontsize": SMALL_SIZE,
    "legend.title_fontsize": SMALL_SIZE, "xtick.labelsize": SMALL_SIZE, "ytick.labelsize": SMALL_SIZE,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": LIGHT_GREY, "grid.linewidth": 0.4,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "legend.frameon": False, "legend.labelspacing": 0.3, "patch.linewidth": 0.6, "hatch.linewidth": 0.6,
    "svg.hashsalt": "loco-det",
    "text.parse_math": False,  # folders, classes and methods may have any name, dollar signs included
}


@dataclass(frozen=True)
class Drawing:
    """A figure, and a sentence that says what it shows, of what, in which units."""

    figure: Figure
    caption: str


@contextmanager
def figure_style() -> Iterator[None]:
    """The look of all figures; figures must be made and saved within."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(
    columns: int = 1, rows: int = 1, width: float = COLUMN_WIDTH, height: float = 2.3, **subplots: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows x columns`` axes, and the axes row by row.

    Args:
        columns: axes per row.
        rows: rows of axes.
        width: of the whole figure, in inches.
        height: of the whole figure, in inches.
        subplots: further options of :meth:`matplotlib.figure.Figure.subplots`, such as ``sharey``.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **subplots).flat)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Writes ``<stem>.png`` and ``<stem>.svg``, and returns these; the folder is created."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in metadata]
    with figure_style():
        for file, content in zip(files, metadata.values(), strict=True):
            figure.savefig(file, dpi=PNG_DPI, metadata=content)
    return files


def wrapped(text: str, inches: float, points: float = TEXT_SIZE) -> str:
    """Text broken into lines that fit a width at a font size; its own line breaks stay."""
    characters = max(1, int(inches / (CHARACTER * points)))
    return "\n".join(line for given in text.split("\n") for line in textwrap.wrap(given, characters))


def legend_height(labels: Sequence[str], width: float) -> float:
    """Inches that a legend of :func:`outside_legend` takes of a figure that is ``width`` inches wide."""
    texts, columns = _legend_texts(labels, width)
    lines = [text.count("\n") + 1 for text in texts]
    rows = math.ceil(len(lines) / columns)
    return LEGEND_LINE * max(sum(lines[start:start + rows]) for start in range(0, len(lines), rows))


def outside_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], loc: str = "upper center") -> Legend:
    """A legend above or below all axes, in as many columns as fit the figure's width, with long labels wrapped."""
    texts, columns = _legend_texts(labels, figure.get_figwidth())
    return figure.legend(handles=handles, labels=texts, loc=f"outside {loc}", ncols=columns, columnspacing=1.2,
                         handlelength=1.6)


def _legend_texts(labels: Sequence[str], width: float) -> tuple[list[str], int]:
    """The labels in lines, and how many fit side by side."""
    texts = [wrapped(label, width - LEGEND_HANDLE, SMALL_SIZE) for label in labels]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    columns = int(width / (LEGEND_HANDLE + CHARACTER * SMALL_SIZE * longest))
    return texts, max(1, min(columns, len(texts)))


def titles_with_paths(labels: Sequence[str], paths: Sequence[str | Path]) -> list[str]:
    """Labels, to which those that are equal have the last two parts of their paths added in a second line."""
    return [label if labels.count(label) == 1 else f"{label}\n{'/'.join(Path(path).parts[-2:])}"
            for label, path in zip(labels, paths, strict=True)]


def method_color(method: Method) -> str:
    """The colour of a method's family; other methods have one that depends on their key alone."""
    if method.family in METHOD_COLORS:
        return METHOD_COLORS[method.family]
    return OTHER_COLORS[hashlib.sha256(method.key.encode()).digest()[0] % len(OTHER_COLORS)]


def line_styles(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """``color``, ``linestyle`` and ``marker`` of one line per method, no two of them alike.

    Lines of methods with subsampling are dashed. Lines that would look alike, as of one method in different settings, have
    shades of its colour and a marker each; others have no marker.
    """
    looks = [(method_color(method), "--" if method.subsampled else "-") for method in methods]
    styles = []
    for place, look in enumerate(looks):
        style = dict(color=look[0], linestyle=look[1], marker=None)
        if looks.count(look) > 1:
            index = looks[:place].count(look)
            style |= dict(color=shades(look[0], looks.count(look))[index], marker=MARKERS[index % len(MARKERS)])
        styles.append(style)
    return styles


def shades(color: str, count: int) -> list[tuple[float, ...]]:
    """``count`` shades of a colour from light to full, for things in order such as units from the bottom up."""
    weights = [1.0] if count == 1 else [0.35 + 0.65 * index / (count - 1) for index in range(count)]
    return [tuple(1 - weight * (1 - channel) for channel in matplotlib.colors.to_rgb(color)) for weight in weights]


def class_color(index: int) -> str:
    """The colour of a class by its place among all classes of its data set."""
    return CLASS_COLORS[index % len(CLASS_COLORS)]


def class_marker(index: int) -> str:
    """The marker of a class: no two of the first hundred classes have both colour and marker in common."""
    return MARKERS[(index + index // len(CLASS_COLORS)) % len(MARKERS)]
