"""A colour and a marker per class, of Paul Tol's muted scheme, made for all kinds of colour vision."""

from __future__ import annotations

CLASS_COLORS = (
    "#332288", "#CC6677", "#117733", "#88CCEE", "#882255", "#DDCC77", "#44AA99", "#AA4499", "#999933", "#777777",
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">")


def class_color(index: int) -> str:
    """The colour of a class by its place among all classes of its data set; from the eleventh on colours come again."""
    return CLASS_COLORS[index % len(CLASS_COLORS)]


def class_marker(index: int) -> str:
    """The marker of a class: no two of the first hundred classes have both colour and marker in common."""
    return CLASS_MARKERS[(index + index // len(CLASS_COLORS)) % len(CLASS_MARKERS)]


def is_dark(color: str) -> bool:
    """Whether white text is read better than black on a colour ``#RRGGBB``, by its relative luminance (WCAG 2)."""
    channels = (int(color[start : start + 2], 16) / 255 for start in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179  # where both have the same contrast
