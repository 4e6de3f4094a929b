"""The layout of a learning rule, and its drawing with characters for the terminal."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings
from torch import nn

from pretrain.encoders import encoder_label
from pretrain.engine.checkpoints import RECORD_KEY, load_checkpoint
from pretrain.engine.cli import load_config
from pretrain.engine.work_dir import RECORD_NAME
from pretrain.heads import ProjectionHead
from pretrain.learner import LocalContrastiveLearner, check_model
from pretrain.local.units import LocalUnit, Stages, untrained_blocks
from pretrain.results.method import Method, epochs_per_unit, learner_options, method_of_learner, shown_method
from pretrain.results.store import read_record

SHOWN_OPTIONS = ("encoder", "rule", "head", "objective", "weights", "allow_untrained", "soft_sharing", "method_name")
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
class UnitLayout:
    """A local unit as it is shown.

    Attributes:
        unit: its blocks.
        name: as in the training log's ``loss_<name>``.
        lane: beside the blocks, counted from 0; units in one lane have no block in common.
        copied: with soft sharing, the number of its last blocks of which it trains a copy of its own.
        head_convs: the convolutional part of its projection head in words; empty where there is none.
        head_widths: features that every linear layer of the head takes, and at last those that it yields.
    """

    unit: LocalUnit
    name: str
    lane: int
    copied: int
    head_convs: str
    head_widths: tuple[int, ...]

    def effect(self, block: int) -> str:
        """What the unit's gradient does to a block that it reaches: ``updates``, ``passes``, or updates its own ``copy``."""
        if block >= self.unit.end - self.copied:
            return "copy"
        return "updates" if self.unit.trains(block) else "passes"


@dataclass(frozen=True)
class RuleLayout:
    """A learning rule on an encoder as it is shown: units from the bottom up, and blocks that no unit updates."""

    method: Method
    encoder: str
    stages: Stages
    units: Sequence[UnitLayout]
    untrained: Sequence[int]

    @property
    def num_blocks(self) -> int:
        """Blocks of the encoder."""
        return max(end for _, end in self.stages.values())

    @property
    def num_lanes(self) -> int:
        """Lanes that the units need side by side."""
        return 1 + max(shown.lane for shown in self.units)

    @property
    def effects(self) -> set[str]:
        """All that its units do to blocks."""
        return {shown.effect(block) for shown in self.units for block in range(shown.unit.start, shown.unit.end)}


def rule_layout(model: Mapping[str, Any]) -> RuleLayout:
    """Lays out the learning rule of a model.

    Args:
        model: options of :class:`~pretrain.learner.LocalContrastiveLearner`; ``epochs_per_unit``, if there are any.

    Raises:
        ValueError: the learner refuses them, as in training.
    """
    learner = LocalContrastiveLearner(**{key: model[key] for key in SHOWN_OPTIONS if model.get(key) is not None})
    copies = [0] * len(learner.units)
    if learner.soft_sharing is not None:
        copies[:len(learner.soft_sharing.copies)] = map(len, learner.soft_sharing.copies)
    units = [
        UnitLayout(unit, name, lane, copied, *_described(head, model.get("head") or {}))
        for unit, name, lane, copied, head in zip(
            learner.units, learner.unit_names, _lanes(learner.units), copies, learner.heads, strict=True)
    ]
    untrained = untrained_blocks(learner.units, learner.encoder.num_blocks)
    method = shown_method(method_of_learner(learner, model.get("epochs_per_unit")))
    return RuleLayout(method, encoder_label(model["encoder"]), learner.encoder.stages, units, untrained)


def read_model(path: str | Path) -> dict[str, Any]:
    """What :func:`rule_layout` takes, from a config file, a work directory, a checkpoint or an exported backbone.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, or does not say how it was pretrained.
    """
    path = Path(path)
    if path.suffix == ".py":
        keys = ("model.rule", "model.encoder")
        config = load_config(str(path), Namespace(cfg_options=None, work_dir=None), default_work_dir="", needed_keys=keys)
        return model_of_config(config)
    if path.is_dir():
        record = read_record(path / RECORD_NAME).content
    else:
        content = load_checkpoint(path)
        record = content.get(RECORD_KEY) or content.get("meta") or {}
    if "method" not in record:
        raise ValueError(f"{path} does not say how it was pretrained; pass a work directory or an epoch_*.pth of "
                         "tools/pretrain.py, a backbone of tools/export_backbone.py, or a config")
    options = learner_options(record["method"], record["setting"])
    return {**options, "epochs_per_unit": record["method"]["epochs_per_unit"]}


def model_of_config(config: Config) -> dict[str, Any]:
    """What :func:`rule_layout` takes, of a pretraining config; what the config names is registered."""
    plain = config.to_dict()
    import_modules_from_strings(**plain.get("custom_imports", {"imports": []}))
    check_model(plain["model"])
    return {**plain["model"], "epochs_per_unit": epochs_per_unit(plain)}


def _lanes(units: Sequence[LocalUnit]) -> list[int]:
    """For every unit the first lane in which all units below have ended."""
    ends: list[int] = []  # of the last unit in every lane
    lanes = []
    for unit in units:
        lane = next((index for index, end in enumerate(ends) if end <= unit.start), len(ends))
        ends[lane:lane + 1] = [unit.end]
        lanes.append(lane)
    return lanes


def _described(head: nn.Module, options: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """``head_convs`` and ``head_widths`` of :class:`UnitLayout`."""
    head = getattr(head, "head", head)  # a copied stage may precede it
    if not isinstance(head, ProjectionHead):
        return type(head).__name__, ()
    linear = [layer for layer in head.mlp if isinstance(layer, nn.Linear)]
    convs, count = "", len(head.convs)
    if count:
        plain = {"plain_conv": "3×3 conv", "expand": "1×1 conv"}
        convs = plain.get(options.get("conv_blocks"), f"{count} residual block{'s' * (count > 1)}")
        convs += "" if options.get("downsample", True) else " without downsampling"
    return convs, (*(layer.in_features for layer in linear), linear[-1].out_features)


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
        model: see :func:`rule_layout`.

    Returns:
        Lines of at most :data:`WIDTH` characters, the top of the network first.

    Raises:
        ValueError: the learner refuses the options, as in training.
    """
    layout = rule_layout(model)
    count = len(layout.units)
    title = f"{layout.method.label} on {layout.encoder}: {layout.num_blocks} blocks, {count} local unit{'s' * (count > 1)}"
    rows = _rows(layout)
    margin = max(map(len, layout.stages)) + 1
    drawn = [f"{_column(layout, row, margin)}  {lane}" for row, lane in zip(rows, _lane_texts(layout, rows), strict=True)]
    lines = [title, "", *drawn, f"{'':{margin}}   ▲ images", "", *_legend(layout)]
    return "\n".join(line.rstrip() if len(line) <= WIDTH else f"{line[:WIDTH - 1]}…" for line in lines)


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


def _lane_texts(layout: RuleLayout, rows: Sequence[_Row]) -> list[str]:
    """The units' part of every line."""
    grid = [[" "] * (3 * layout.num_lanes) for _ in rows]
    for shown in layout.units:
        top = next(index for index, row in enumerate(rows) if row.unit is shown)
        bottom = next(index for index, row in enumerate(rows) if row.numbered and row.block == shown.unit.start)
        for index in range(top, bottom + 1):
            shape = ENDS if index == bottom else TOPS if index == top else LINES
            grid[index][3 * shown.lane] = shape[shown.effect(rows[index].block)]
    for cells, row in zip(grid, rows, strict=True):
        if row.unit is not None:
            after = 3 * row.unit.lane + 1
            cells[after:] = [CROSSINGS.get(cell, cell) for cell in cells[after:]]
            mlp = f"MLP {'-'.join(map(str, row.unit.head_widths))}" if row.unit.head_widths else ""
            head = ", ".join(filter(None, [row.unit.head_convs, mlp]))
            cells.append(f" loss_{row.unit.name} {row.unit.unit}: {head}")
    return ["".join(cells) for cells in grid]


def _legend(layout: RuleLayout) -> list[str]:
    lines = [text for effect, text in LEGEND.items() if effect in layout.effects]
    ends = {ENDS[shown.effect(shown.unit.start)] for shown in layout.units}
    lines.append(f"{' '.join(sorted(ends))} and goes no further down")
    if layout.untrained:
        lines.append(f"× no unit updates block{'s' * (len(layout.untrained) > 1)} {', '.join(map(str, layout.untrained))}")
    return lines
