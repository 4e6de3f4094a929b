"""One look for all figures: sizes and fonts for a paper's column, and the same colour per method everywhere.

Figures are made without pyplot, so that nothing global changes and no display is needed. Files of equal content are equal
byte for byte.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pretrain.engine.work_dir import write_json
from pretrain.results.method import Method

COLUMN_WIDTH = 3.3  # inches, of a paper in two columns
TEXT_WIDTH = 6.8
FORMATS = ("png", "svg")
PNG_DPI = 200

# Okabe and Ito's palette, which people of all kinds of colour vision can distinguish
BLUE, ORANGE, GREEN, SKY, VERMILION, PURPLE, YELLOW = (
    "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#F0E442")
BLACK, DARK_GREY, GREY, LIGHT_GREY = "#000000", "#5A5A5A", "#8C8C8C", "#D9D9D9"  # GREY, like GREEN to some: not a method's
METHOD_COLORS = {
    "random": DARK_GREY, "supervised": BLACK, "simclr": BLUE, "gim": ORANGE, "loco": GREEN,
    "decoupled4": SKY, "decoupled8": PURPLE, "decoupled16": VERMILION,
}
OTHER_COLORS = ("#7B2CFF", "#8C2D19", "#4B0055", "#6B3E00")  # none that a method has, or that can be taken for one
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same everywhere
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "figure.titlesize": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.axisbelow": True,
    "axes.grid": True, "grid.color": LIGHT_GREY, "grid.linewidth": 0.4,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "lines.linewidth": 1.2, "lines.markersize": 3.5,
    "legend.frameon": False, "patch.linewidth": 0.6, "hatch.linewidth": 0.6,
    "svg.hashsalt": "loco-det",
    "text.parse_math": False,  # folders, classes and methods may be called by any name, dollar signs included
}


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows.

    Attributes:
        figure: to be saved with :func:`save_figure`.
        caption: one sentence that says what is drawn, of what, in which units; the figure's alternative text.
        numbers: the values that are drawn, as plain data for JSON.
    """

    figure: Figure
    caption: str
    numbers: Mapping[str, Any]


@contextmanager
def figure_style() -> Iterator[None]:
    """The look of all figures; figures must be made and saved within."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(
    columns: int = 1, rows: int = 1, width: float = COLUMN_WIDTH, height: float = 2.3, **subplots: object
) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows x columns`` axes, and the axes row by row.

    Args:
        columns: axes a row.
        rows: rows of axes.
        width: of the whole figure, in inches.
        height: of a row, in inches.
        subplots: further options of :meth:`matplotlib.figure.Figure.subplots`, such as ``sharey``.
    """
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.flat)


def save_drawing(drawing: Drawing, stem: Path) -> list[Path]:
    """Writes ``<stem>.png``, ``<stem>.svg`` and the numbers as ``<stem>.json``, where what is not finite is null.

    Returns:
        The files.
    """
    numbers = stem.with_name(f"{stem.name}.json")
    files = [*save_figure(drawing.figure, stem), numbers]
    write_json(numbers, _finite(drawing.numbers))
    return files


def _finite(content: Any) -> Any:
    """Plain data with None in the place of numbers that JSON does not have."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Writes ``<stem>.png`` and ``<stem>.svg``; the folder is made.

    Returns:
        The files, in the order of :data:`FORMATS`.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in FORMATS]
    with figure_style():
        for file, metadata in zip(files, ({"Software": None}, {"Date": None, "Creator": None}), strict=True):
            figure.savefig(file, dpi=PNG_DPI, metadata=metadata)
    return files


def method_color(method: Method) -> str:
    """The colour of a method's family; of other methods one that depends on their key alone."""
    if method.family in METHOD_COLORS:
        return METHOD_COLORS[method.family]
    if method.family == "decoupled1":  # trained end to end
        return METHOD_COLORS["simclr"]
    return OTHER_COLORS[hashlib.sha256(method.key.encode()).digest()[0] % len(OTHER_COLORS)]


def method_dashes(method: Method) -> str:
    """Line style: dashed where pairs were left out, beside the plain rule of the same colour."""
    return "--" if method.subsampled else "-"


def line_styles(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """``color``, ``linestyle`` and ``marker`` for one line a method, no two of them alike.

    Lines that would look alike, as of one method with different settings, have shades of its colour and a marker each;
    others have none.
    """
    looks = [(method_color(method), method_dashes(method)) for method in methods]
    styles: list[dict[str, Any]] = [dict(color=color, linestyle=dashes, marker=None) for color, dashes in looks]
    for look in dict.fromkeys(looks):
        alike = [style for style, other in zip(styles, looks, strict=True) if other == look]
        if len(alike) > 1:
            for place, (style, color) in enumerate(zip(alike, shades(look[0], len(alike)), strict=True)):
                style.update(color=color, marker=MARKERS[place % len(MARKERS)])
    return styles


def shades(color: str, count: int) -> Sequence[tuple[float, float, float]]:
    """``count`` shades of a colour from light to full, for things in order such as units from the bottom up."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    weights = [1.0] if count == 1 else [0.35 + 0.65 * index / (count - 1) for index in range(count)]
    return [tuple(1 - w * (1 - channel) for channel in (red, green, blue)) for w in weights]
