"""The picture of a learning rule: blocks, local units, heads, and how far down every gradient flows (LoCo, figure 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from pretrain.figures.style import (
    BLACK,
    COLUMN_WIDTH,
    GREY,
    SMALL_SIZE,
    TEXT_WIDTH,
    VERMILION,
    Drawing,
    figure_style,
    legend_height,
    method_color,
    new_figure,
    outside_legend,
    shades,
    titles_with_paths,
    wrapped,
)
from pretrain.figures.unit_text import RuleLayout, UnitLayout, read_model, rule_layout

BLOCK_HEIGHT, BLOCK_WIDTH, LANE = 0.2, 0.4, 0.17  # inches
TOP_OF_LINE = 0.3  # of a block: how far below its top the line from the block to the head leaves it
ARROW = dict(marker="v", markersize=5.5, markeredgewidth=0)
NARROWING = [(-1, -1), (-1, 1), (1, 0.45), (1, -0.45), (-1, -1)]  # towards the loss
HEAD = dict(marker=NARROWING, markersize=9, markeredgecolor=BLACK, markeredgewidth=0.5)
UNTRAINED = dict(facecolor="white", edgecolor=VERMILION, hatch="////")
STROKES = {"updates": dict(linewidth=2.4), "copy": dict(linewidth=2.8), "passes": dict(linewidth=1.0, linestyle=":")}
EFFECTS = {
    "updates": "gradient, updates the block",
    "copy": "updates the unit's own copy",
    "passes": "passes through, updates nothing",
}


def draw_units(paths: Sequence[str | Path]) -> Drawing:
    """Draws learning rules side by side, the images at the bottom.

    Args:
        paths: see :func:`pretrain.figures.unit_text.read_model`.

    Raises:
        FileNotFoundError, ValueError: as :func:`~pretrain.figures.unit_text.read_model`, or the learner refuses a model.
    """
    return draw_models([read_model(path) for path in paths], paths)


def draw_models(models: Sequence[Mapping[str, Any]], paths: Sequence[str | Path]) -> Drawing:
    """As :func:`draw_units`, of options that :func:`pretrain.figures.unit_text.rule_layout` takes."""
    layouts = [rule_layout(model) for model in models]
    titles = titles_with_paths([f"{layout.method.label} on {layout.encoder}" for layout in layouts], paths)
    needed = max(LANE * layout.num_lanes for layout in layouts) + 1.9
    columns = max(1, min(3, len(layouts), int(TEXT_WIDTH / needed)))
    width = max(needed, COLUMN_WIDTH if len(layouts) == 1 else TEXT_WIDTH)
    handles = _legend(layouts)
    labels = [handle.get_label() for handle in handles]
    heights = [max(map(_height, layouts[start:start + columns])) for start in range(0, len(layouts), columns)]
    with figure_style():
        figure, axes = new_figure(columns, len(heights), width, sum(heights) + legend_height(labels, width) + 0.1,
                                  gridspec_kw=dict(height_ratios=heights))
        for ax in axes:
            ax.axis("off")
        for ax, layout, title in zip(axes, layouts, titles, strict=False):
            ax.set_title(wrapped(title, width / columns - 0.2), loc="left")
            _draw_rule(ax, layout, width / columns - 0.3)
        outside_legend(figure, handles, labels, "lower center")
    untrained = [f" {title} leaves blocks {', '.join(map(str, layout.untrained))} untrained."
                 for title, layout in zip(titles, layouts, strict=True) if layout.untrained]
    return Drawing(figure, f"Local units of {'; '.join(titles)}: the encoder's blocks by stage, with the images at the "
                   "bottom, and beside them every unit's gradient, from the loss on its last block down to the first block "
                   f"that it reaches.{''.join(untrained)}")


def _height(layout: RuleLayout) -> float:
    """Inches that a rule takes with title and note."""
    return BLOCK_HEIGHT * _stretch(layout) * layout.num_blocks + 1.1


def _stretch(layout: RuleLayout) -> float:
    """How much higher than usual blocks must be for the names of all losses on one of them."""
    return max(1, max(Counter(shown.unit.end for shown in layout.units).values()) / 1.3)


def _draw_rule(ax: Axes, layout: RuleLayout, width: float) -> None:
    """Draws a rule about ``width`` inches wide; x is in inches, y in blocks."""
    ax.set(xlim=(-0.35, width - 0.35), ylim=(-1.6 / _stretch(layout), layout.num_blocks + 0.1))
    tints = matplotlib.colormaps["BuPu"]
    for index, (stage, (start, end)) in enumerate(layout.stages.items()):
        tint = tints(0.08 + 0.34 * index / max(1, len(layout.stages) - 1))
        ax.text(-0.05, (start + end) / 2, stage, ha="right", va="center", fontsize=SMALL_SIZE)
        for block in range(start, end):
            look = UNTRAINED if block in layout.untrained else dict(facecolor=tint, edgecolor=BLACK)
            ax.add_patch(Rectangle((0, block + 0.07), BLOCK_WIDTH, 0.86, **look))
            ax.text(BLOCK_WIDTH / 2, block + 0.48, str(block), ha="center", va="center", fontsize=6.5,
                    bbox=dict(facecolor=look["facecolor"], linewidth=0, pad=0.4))
    ax.annotate("images", (BLOCK_WIDTH / 2, 0), (BLOCK_WIDTH / 2, -1.4 / _stretch(layout)), fontsize=6.5, ha="center",
                arrowprops=dict(arrowstyle="-|>", color=GREY, linewidth=0.8, shrinkA=0, shrinkB=0))
    kinds = dict.fromkeys(_head_kind(shown) for shown in layout.units)
    heads = f"projection heads: {' or '.join(kinds)}"
    ax.text(0, 0, wrapped(heads, width, 6.5), fontsize=6.5, va="top", transform=ax.transAxes)
    ending = Counter(shown.unit.end for shown in layout.units)
    placed: Counter[int] = Counter()
    for shown, color in zip(layout.units, shades(method_color(layout.method), len(layout.units)), strict=True):
        end = shown.unit.end
        below = TOP_OF_LINE if ending[end] == 1 else (ending[end] - placed[end] - 0.5) / ending[end]  # the lower unit lower
        placed[end] += 1
        _draw_unit(ax, shown, color, end - below, BLOCK_WIDTH + LANE * (layout.num_lanes + 1) + 0.1)


def _draw_unit(ax: Axes, shown: UnitLayout, color: tuple[float, ...], top: float, head: float) -> None:
    """Draws a unit: from its last block at height ``top`` to the head at ``head``, and back down to its first block."""
    lane = BLOCK_WIDTH + LANE * (shown.lane + 1)
    ax.plot([BLOCK_WIDTH, head], [top, top], color=GREY, linewidth=0.7, zorder=2)
    ax.plot([lane, head], [top, top], color=color, linewidth=1.2, zorder=2.1)
    bottom = shown.unit.start + 0.25
    for effect, run in groupby(range(shown.unit.start, shown.unit.end), shown.effect):
        blocks = list(run)
        ends = [max(blocks[0], bottom), min(blocks[-1] + 1, top)]
        ax.plot([lane, lane], ends, color=color, solid_capstyle="butt", zorder=3, **STROKES[effect])
        if effect == "copy":  # hollow
            ax.plot([lane, lane], ends, color="white", linewidth=1.2, solid_capstyle="butt", zorder=3.1)
    ax.plot(lane, bottom, color=color, zorder=4, **ARROW)
    ax.plot([lane - 0.055, lane + 0.055], [bottom - 0.2] * 2, color=BLACK, linewidth=1.1, solid_capstyle="butt", zorder=4)
    ax.plot(head + 0.05, top, color=color, zorder=4, **HEAD)
    ax.text(head + 0.16, top, f"{shown.name} loss", va="center_baseline", fontsize=SMALL_SIZE)


def _head_kind(shown: UnitLayout) -> str:
    """The head in words, without the widths that grow with the encoder's."""
    mlp = f"{len(shown.head_widths) - 1}-layer MLP to {shown.head_widths[-1]} features" if shown.head_widths else ""
    return " + ".join(filter(None, [shown.head_convs, mlp]))


def _legend(layouts: Sequence[RuleLayout]) -> list[Line2D | Patch]:
    """What the signs that occur mean."""
    effects = set().union(*(layout.effects for layout in layouts))
    handles: list[Line2D | Patch] = [
        Patch(facecolor="white", edgecolor=GREY, linewidth=0.8, label=label) if effect == "copy" else
        Line2D([], [], color=GREY, label=label, **STROKES[effect])
        for effect, label in EFFECTS.items() if effect in effects
    ]
    marker = dict(color=GREY, linestyle="")
    handles += [
        Line2D([], [], label="goes no further down", **marker, **ARROW),
        Line2D([], [], label="head, not kept after training", **marker, **HEAD),
    ]
    if any(layout.untrained for layout in layouts):
        handles.append(Patch(**UNTRAINED, label="no unit updates the block"))
    return handles
