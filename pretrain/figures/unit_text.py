"""A learning rule drawn with characters, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.figures.unit_layout import RuleLayout, UnitLayout, rule_layout

WIDTH = 100  # columns
LINES = {"updates": "┃", "copy": "║", "passes": "┊"}
TOPS = {"updates": "┏", "copy": "╔", "passes": "┌"}
ENDS = {"updates": "▼", "copy": "▼", "passes": "▽"}
CROSSINGS = {**dict.fromkeys(LINES.values(), "╋"), " ": "━"}  # what the line from a loss to its lane makes of others
LEGEND = {
    "updates": "┃ the loss's gradient updates the block",
    "copy": "║ it updates the unit's own copy of the block",
    "passes": "┊ it passes through the block without updating it",
}


@dataclass(frozen=True)
class _Row:
    """A line of the drawing.

    Attributes:
        block: the block that it shows; of a border the one above.
        numbered: whether it is the line with the block's number, the lowest of the block's lines.
        unit: whose loss stands on it.
        border: what it shows in place of a block.
    """

    block: int
    numbered: bool = False
    unit: UnitLayout | None = None
    border: str | None = None


def units_as_text(model: Mapping[str, Any]) -> str:
    """Draws the blocks of a model's encoder, its local units, their heads, and how far down every gradient flows.

    Args:
        model: see :func:`pretrain.figures.unit_layout.rule_layout`.

    Returns:
        Lines of at most :data:`WIDTH` characters, the top of the network first.

    Raises:
        ValueError: the learner refuses the options, as in training.
    """
    layout = rule_layout(model)
    rows = _rows(layout)
    margin = max(map(len, layout.stages)) + 1
    lanes = _lanes(layout, rows)
    drawn = [f"{_column(layout, row, margin)}  {lane}" for row, lane in zip(rows, lanes, strict=True)]
    images = f"{'':{margin}}   ▲ images"
    lines = [_title(layout), "", *drawn, images, "", *_legend(layout)]
    return "\n".join(line.rstrip() if len(line) <= WIDTH else f"{line[:WIDTH - 1]}…" for line in lines)


def _title(layout: RuleLayout) -> str:
    count = len(layout.units)
    return f"{layout.method.label} on {layout.encoder}: {layout.num_blocks} blocks, {count} local unit{'s' * (count > 1)}"


def _rows(layout: RuleLayout) -> list[_Row]:
    """All lines from the top down; a block at which several units end has a line for each."""
    starts = [start for start, _ in layout.stages.values()]
    rows = [_Row(layout.num_blocks, border="┌────┐")]
    for block in reversed(range(layout.num_blocks)):
        ending = [shown for shown in reversed(layout.units) if shown.unit.end == block + 1] or [None]
        rows += [_Row(block, numbered=shown is ending[-1], unit=shown) for shown in ending]
        if block in starts:
            rows.append(_Row(block, border="├────┤" if block else "└────┘"))
    return rows


def _column(layout: RuleLayout, row: _Row, margin: int) -> str:
    """The encoder's part of a line: stage and block."""
    if row.border is not None:
        return f"{'':{margin}}{row.border} "
    stage = next((name for name, (_, end) in layout.stages.items() if row.numbered and end == row.block + 1), "")
    number = row.block if row.numbered else ""
    return f"{stage:>{margin - 1}} │{number:>3} │{'×' if row.numbered and row.block in layout.untrained else ' '}"


def _lanes(layout: RuleLayout, rows: Sequence[_Row]) -> list[str]:
    """The units' part of every line."""
    grid = [[" "] * (3 * layout.num_lanes) for _ in rows]
    for shown in layout.units:
        top = next(index for index, row in enumerate(rows) if row.unit is shown)
        bottom = next(index for index, row in enumerate(rows) if row.numbered and row.block == shown.unit.start)
        for index in range(top, bottom + 1):
            effect = shown.effect(rows[index].block)
            shape = ENDS if index == bottom else TOPS if index == top else LINES
            grid[index][3 * shown.lane] = shape[effect]
    for cells, row in zip(grid, rows, strict=True):
        if row.unit is not None:
            after = 3 * row.unit.lane + 1
            cells[after:] = [CROSSINGS.get(cell, cell) for cell in cells[after:]]
            cells.append(f" loss_{row.unit.name} {row.unit.unit}: {row.unit.head}")
    return ["".join(cells) for cells in grid]


def _legend(layout: RuleLayout) -> list[str]:
    effects = {shown.effect(block) for shown in layout.units for block in range(shown.unit.start, shown.unit.end)}
    lines = [text for effect, text in LEGEND.items() if effect in effects]
    ends = {ENDS[shown.effect(shown.unit.start)] for shown in layout.units}
    lines.append(f"{' '.join(sorted(ends))} and goes no further down")
    if layout.untrained:
        lines.append(f"× no unit updates block{'s' * (len(layout.untrained) > 1)} {', '.join(map(str, layout.untrained))}")
    return lines
