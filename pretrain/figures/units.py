"""The picture of a learning rule: blocks, local units, heads, and how far down every gradient flows (LoCo, figure 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from pretrain.figures.labels import CHARACTER, unique_labels_by_path, wrapped
from pretrain.figures.style import (
    BLACK,
    COLUMN_WIDTH,
    GREY,
    TEXT_WIDTH,
    VERMILION,
    Drawing,
    figure_style,
    method_color,
    new_figure,
    shades,
)
from pretrain.figures.unit_layout import RuleLayout, UnitLayout, rule_layout

COLUMNS = 3
# inches, which are also the coordinates of the axes
BLOCK_HEIGHT, BLOCK_WIDTH, WIDE_BLOCK, BLOCK_GAP = 0.2, 0.4, 0.72, 0.03  # wide ones hold a word beside the number
LANE, ARROW, LINE_HEIGHT, LEGEND_LINE = 0.17, 0.05, 0.13, 0.17
NAME_OFFSET = 0.16  # from a head to the name of its loss
IMAGES = 0.34  # what the arrow and the word below the blocks take
ARROWHEAD = dict(marker="v", markersize=5.5, markeredgewidth=0)  # of an arrow
NARROWING = [(-1, -1), (-1, 1), (1, 0.45), (1, -0.45), (-1, -1)]  # towards the loss
HEAD = dict(marker=NARROWING, markersize=9, markeredgecolor=BLACK, markeredgewidth=0.5)
SMALL, MEDIUM, LARGE = 6.5, 7, 8  # points
STROKES = {"updates": dict(linewidth=2.4), "copy": dict(linewidth=2.8), "passes": dict(linewidth=1.0, linestyle=":")}
EFFECTS = {
    "updates": "gradient, updates the block",
    "copy": "updates the unit's own copy",
    "passes": "passes through, updates nothing",
}


def draw_units(models: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draws learning rules side by side, the images at the bottom.

    Args:
        models: see :func:`pretrain.figures.unit_layout.rule_layout`.

    Raises:
        ValueError: the learner refuses a model, as in training; or there is none.
    """
    if not models:
        raise ValueError("there is no learning rule to draw; pass at least one config, work directory or checkpoint")
    layouts = _with_unique_names([rule_layout(model) for model in models], [model.get("source", "") for model in models])
    needed = max(map(_needed_width, layouts))
    columns = max(1, min(COLUMNS, len(layouts), int(TEXT_WIDTH / needed)))
    width = max(needed, COLUMN_WIDTH if len(layouts) == 1 else TEXT_WIDTH)
    panel = width / columns
    above = [_top(layout) + LINE_HEIGHT * len(_title(layout, panel)) + 0.1 for layout in layouts]
    below = [IMAGES + LINE_HEIGHT * len(_note(layout, panel)) for layout in layouts]
    starts = range(0, len(layouts), columns)  # of rows
    tops, bottoms = ([max(sizes[start:start + columns]) for start in starts] for sizes in (above, below))
    heights = [top + bottom for top, bottom in zip(tops, bottoms, strict=True)]
    handles = _legend(layouts)
    legend_height = LEGEND_LINE * -(-len(handles) // columns)
    with figure_style():
        figure, axes = new_figure(columns, len(heights), width, (sum(heights) + legend_height) / len(heights) + 0.1,
                                  gridspec_kw=dict(height_ratios=heights))
        for index, ax in enumerate(axes):
            ax.set(xlim=(0, panel), ylim=(-bottoms[index // columns], tops[index // columns]))
            ax.axis("off")
        for ax, layout in zip(axes, layouts, strict=False):
            _draw_rule(ax, layout, panel)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return Drawing(figure, _caption(layouts), {"rules": [_numbers(layout) for layout in layouts]})


def _with_unique_names(layouts: Sequence[RuleLayout], sources: Sequence[str]) -> list[RuleLayout]:
    """With names that differ where rule and encoder do not."""
    titles = ["\n".join((layout.name, layout.encoder)) for layout in layouts]
    unique = unique_labels_by_path(titles, sources, "{hint}")
    return [layout if title == hint else replace(layout, name=f"{layout.name} ({hint})")
            for layout, title, hint in zip(layouts, titles, unique, strict=True)]


def _draw_rule(ax: Axes, layout: RuleLayout, width: float) -> None:
    height = _block_height(layout)
    column, edge, heads = _places(layout)
    ax.text(0, _top(layout) + 0.06, "\n".join(_title(layout, width)), fontsize=LARGE, va="bottom")
    ax.text(0, -IMAGES, "\n".join(_note(layout, width)), fontsize=SMALL, va="top", linespacing=1.25)
    _draw_blocks(ax, layout, column, edge)
    ax.annotate("images", ((column + edge) / 2, 0), ((column + edge) / 2, -0.3), fontsize=SMALL, ha="center",
                arrowprops=dict(arrowstyle="-|>", color=GREY, linewidth=0.8, shrinkA=0, shrinkB=0))
    ending = Counter(shown.unit.end for shown in layout.units)
    placed: Counter[int] = Counter()
    for shown, color in zip(layout.units, shades(method_color(layout.method), len(layout.units)), strict=True):
        end = shown.unit.end
        share = 0.3 if ending[end] == 1 else (ending[end] - placed[end] - 0.5) / ending[end]  # the lower unit lower
        placed[end] += 1
        _draw_unit(ax, shown, color, height, (end - share) * height, edge, heads)
    for text in ax.texts:
        text.set_in_layout(False)  # has its place already


def _places(layout: RuleLayout) -> tuple[float, float, float]:
    """Left and right end of the blocks, and left end of the heads, in inches from the left."""
    left = 0.1 + CHARACTER * MEDIUM * max(map(len, layout.stages))
    right = left + (WIDE_BLOCK if layout.untrained else BLOCK_WIDTH)
    return left, right, right + LANE * (layout.num_lanes + 1) + 0.1


def _needed_width(layout: RuleLayout) -> float:
    """Inches that a rule takes."""
    longest = max(len(_loss_name(shown)) for shown in layout.units)
    return _places(layout)[-1] + NAME_OFFSET + CHARACTER * MEDIUM * longest


def _loss_name(shown: UnitLayout) -> str:
    return f"{shown.name} loss"


def _draw_blocks(ax: Axes, layout: RuleLayout, left: float, right: float) -> None:
    height = _block_height(layout)
    tints = matplotlib.colormaps["BuPu"]
    for index, (stage, (start, end)) in enumerate(layout.stages.items()):
        tint = tints(0.08 + 0.34 * index / max(1, len(layout.stages) - 1))
        ax.text(left - 0.06, (start + end) / 2 * height, stage, ha="right", va="center", fontsize=MEDIUM)
        for block in range(start, end):
            untrained = block in layout.untrained
            look = dict(facecolor="white", edgecolor=VERMILION, hatch="////") if untrained else dict(
                facecolor=tint, edgecolor=BLACK)
            ax.add_patch(Rectangle((left, block * height + BLOCK_GAP / 2), right - left, height - BLOCK_GAP, **look))
            ax.text((left + right) / 2, (block + 0.48) * height, f"{block} untrained" if untrained else block, ha="center",
                    va="center", fontsize=SMALL, bbox=dict(facecolor="white", linewidth=0, pad=0.6) if untrained else None)


def _draw_unit(
    ax: Axes, shown: UnitLayout, color: tuple[float, float, float], height: float, top: float, edge: float, head: float
) -> None:
    """Draws a unit: from its last block to the head, and back down to its first one.

    Args:
        ax: coordinates are inches.
        shown: the unit.
        color: of its lines.
        height: of a block.
        top: where the line from its last block to the head runs.
        edge: right end of the blocks.
        head: where the heads stand.
    """
    lane = edge + LANE * (shown.lane + 1)
    ax.plot([edge, head], [top, top], color=GREY, linewidth=0.7, zorder=2)
    ax.plot([lane, head], [top, top], color=color, linewidth=1.2, zorder=2.1)
    bottom = shown.unit.start * height + BLOCK_GAP
    for effect, run in groupby(range(shown.unit.start, shown.unit.end), shown.effect):
        blocks = list(run)
        ends = [max(blocks[0] * height, bottom + ARROW / 2), min((blocks[-1] + 1) * height, top)]
        ax.plot([lane, lane], ends, color=color, solid_capstyle="butt", zorder=3, **STROKES[effect])
        if effect == "copy":  # hollow
            ax.plot([lane, lane], ends, color="white", linewidth=1.2, solid_capstyle="butt", zorder=3.1)
    ax.plot(lane, bottom + ARROW / 2, color=color, zorder=4, **ARROWHEAD)
    ax.plot([lane - 0.055, lane + 0.055], [bottom - 0.012] * 2, color=BLACK, linewidth=1.1, solid_capstyle="butt", zorder=4)
    ax.plot(head + 0.05, top, color=color, zorder=4, **HEAD)
    ax.text(head + NAME_OFFSET, top, _loss_name(shown), va="center_baseline", fontsize=MEDIUM)


def _block_height(layout: RuleLayout) -> float:
    """Inches; two losses find place beside a block of the usual height."""
    most = max(Counter(shown.unit.end for shown in layout.units).values())
    return BLOCK_HEIGHT * max(1, most / 1.3)


def _top(layout: RuleLayout) -> float:
    """Where the blocks end, in inches above the lowest."""
    return layout.num_blocks * _block_height(layout)


def _title(layout: RuleLayout, width: float) -> list[str]:
    """Lines that fit ``width`` inches."""
    return [line for text in (layout.name, layout.encoder) for line in wrapped(text, width, LARGE)]


def _note(layout: RuleLayout, width: float) -> list[str]:
    """What the heads are, in lines that fit ``width`` inches."""
    kinds = [(kind, [shown.name for shown in run]) for kind, run in groupby(layout.units, lambda shown: shown.head_kind)]
    outputs = "/".join(str(features) for features in dict.fromkeys(shown.head_widths[-1] for shown in layout.units))
    head = f"Projection head{'s' * (len(layout.units) > 1)} to {outputs} features: "
    parts = [f"{head}{kinds[0][0]}"] if len(kinds) == 1 else [head, *(f"{_run_of(names)}: {kind}" for kind, names in kinds)]
    return [line for text in parts for line in wrapped(text, width, SMALL)]


def _run_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _legend(layouts: Sequence[RuleLayout]) -> list[Line2D | Patch]:
    """What the signs that occur mean."""
    effects = {shown.effect(block) for layout in layouts for shown in layout.units
               for block in range(shown.unit.start, shown.unit.end)}
    marker = dict(color=GREY, linestyle="")
    handles: list[Line2D | Patch] = [
        Patch(facecolor="white", edgecolor=GREY, linewidth=0.8, label=label) if effect == "copy" else
        Line2D([], [], color=GREY, label=label, **STROKES[effect])
        for effect, label in EFFECTS.items() if effect in effects
    ]
    handles += [
        Line2D([], [], label="goes no further down", **marker, **ARROWHEAD),
        Line2D([], [], label="head, not kept after training", **marker, **HEAD),
    ]
    if any(layout.untrained for layout in layouts):
        handles.append(Patch(facecolor="white", edgecolor=VERMILION, hatch="////", label="no unit updates the block"))
    return handles


def _caption(layouts: Sequence[RuleLayout]) -> str:
    rules = "; ".join(f"{layout.name} on {layout.encoder}" for layout in layouts)
    untrained = [f"{layout.name} leaves blocks {', '.join(map(str, layout.untrained))} untrained"
                 for layout in layouts if layout.untrained]
    return ". ".join([
        f"Local units of {rules}: the blocks of the encoder by stage, with the images at the bottom; beside them every "
        "unit's gradient, from the loss on its last block down to the first block that it reaches", *untrained,
    ]) + "."


def _numbers(layout: RuleLayout) -> dict[str, Any]:
    return {
        "method": layout.name,
        "encoder": layout.encoder,
        "stages": {name: list(blocks) for name, blocks in layout.stages.items()},
        "units": [{
            "name": shown.name,
            "start": shown.unit.start,
            "end": shown.unit.end,
            "updates": [block for block in range(shown.unit.start, shown.unit.end) if shown.effect(block) == "updates"],
            "head": shown.head,
        } for shown in layout.units],
        "untrained": list(layout.untrained),
    }
