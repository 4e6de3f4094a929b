"""What encoders and learning rules cost: shares of the stages, and memory of a step (LoCo, tables 6 and 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pretrain.costs.complexity import USUAL_SIZE, EncoderComplexity, stage_complexity
from pretrain.costs.memory import step_cost
from pretrain.costs.methods import CHECKPOINTED
from pretrain.encoders import build_encoder
from pretrain.figures.style import (
    BLACK,
    BLUE,
    COLUMN_WIDTH,
    GREY,
    ORANGE,
    TEXT_WIDTH,
    Drawing,
    figure_style,
    method_color,
    new_figure,
)
from pretrain.results.method import RULE_LABELS, Method

Encoders = Mapping[str, str | Mapping[str, Any]]
COSTS = {"flops": ("FLOPs", BLUE), "memory_elements": ("memory", ORANGE)}
PAPER_SHARES = {  # LoCo, table 6: percent by stage from the bottom up
    "resnet50": {"flops": (19.39, 25.09, 35.80, 19.73), "memory_elements": (43.64, 29.09, 21.82, 5.45)},
    "presnet50": {"flops": (13.50, 14.63, 14.77, 16.62, 20.45, 20.04),
                  "memory_elements": (15.46, 10.96, 19.48, 17.31, 19.48, 17.31)},
}
PAPER_GFLOPS = {"resnet50": 4.14, "presnet50": 4.16}
# Method and mode of recomputation. Blocks that are run again are what checkpointing is to SimCLR.
STEPS = (("simclr", "none"), (CHECKPOINTED, "none"), ("gim", "none"), ("gim", "block"), ("loco", "none"), ("loco", "block"))
BAR_WIDTH = 0.38
PAPER_MARK = dict(color=BLACK, marker="D", markersize=3.5, markerfacecolor="white", markeredgewidth=0.8, linestyle="")


def _published_savings() -> dict[str, float]:
    """The memory savings of LoCo's table 7 by rule."""
    table = json.loads((files("pretrain.results") / "papers" / "loco.json").read_text(encoding="utf-8"))["tables"]["7"]
    place = [column["metric"] for column in table["columns"]].index("memory_saving")
    return {row["method"]["rule"]: row["values"][place] for row in table["rows"] if row["method"] != table["baseline"]}


PAPER_SAVINGS = {"resnet50": {"gim": 1.81, "loco": 1.28}, "presnet50": _published_savings()}  # LoCo, section 5.6, table 7


def draw_stage_costs(encoders: Encoders, image_size: int = USUAL_SIZE) -> Drawing:
    """Shares of an encoder's stages in its FLOPs and its memory: LoCo's table 6, one panel per encoder.

    Args:
        encoders: name for the panel -> what :func:`pretrain.encoders.build_encoder` takes.
        image_size: side of the images; at 224, the paper's shares are marked for the encoders that it has.

    Raises:
        ValueError: an encoder is unknown, or cannot work on such images.
    """
    complexities = {name: stage_complexity(build_encoder(spec), image_size) for name, spec in encoders.items()}
    paper = {name: PAPER_SHARES[name] for name in encoders if name in PAPER_SHARES and image_size == USUAL_SIZE}
    with figure_style():
        figure, axes = _panels(len(encoders))
        for ax, (name, complexity) in zip(axes, complexities.items(), strict=False):
            _draw_shares(ax, complexity, paper.get(name))
            paper_total = f" (paper: {PAPER_GFLOPS[name]:.2f})" if name in paper else ""
            ax.set_title(f"{name}: {complexity.total('flops') / 1e9:.3g} GFLOPs{paper_total}")
        axes[0].set_ylabel("share of the encoder (%)")
        _add_legend(figure, [Patch(color=color, label=label) for label, color in COSTS.values()], bool(paper))
    return Drawing(figure, "FLOPs (multiply-adds of convolutions and linear layers) and memory (elements of convolution "
                   f"outputs in residual branches) of every stage in percent of the encoder, {image_size} px"
                   f"{'; diamonds: table 6 of the LoCo paper' if paper else ''}.")


def draw_memory_savings(encoders: Encoders, batch_size: int = 32, image_size: int = USUAL_SIZE) -> Drawing:
    """How many times less memory a training step takes than SimCLR's: LoCo's table 7 and section 5.6, one panel per encoder.

    The step is counted on fake tensors, see :mod:`pretrain.costs.memory`.

    Args:
        encoders: name for the panel -> what :func:`pretrain.encoders.build_encoder` takes.
        batch_size: images of the step, of two views each.
        image_size: side of the images.

    Raises:
        ValueError: :func:`pretrain.costs.memory.step_cost` refuses something.
    """
    peaks = {name: [step_cost(spec, method, batch_size=batch_size, image_size=image_size, recompute=mode).peak_bytes
                    for method, mode in STEPS]
             for name, spec in encoders.items()}
    paper = {name: PAPER_SAVINGS[name] for name in encoders if name in PAPER_SAVINGS and image_size == USUAL_SIZE}
    with figure_style():
        figure, axes = _panels(len(encoders))
        for ax, (name, counted) in zip(axes, peaks.items(), strict=False):
            _draw_savings(ax, [counted[0] / peak for peak in counted], paper.get(name, {}))
            ax.set_title(f"{name}: SimCLR {counted[0] / 1e9:.2f} GB")
        axes[0].set_ylabel("memory saving over SimCLR (×)")
        again = Patch(facecolor="white", edgecolor=BLACK, hatch="////", label="every block is run again")
        _add_legend(figure, [again], bool(paper))
    return Drawing(figure, f"Memory saving: SimCLR's peak memory of a training step over the method's, {batch_size} images "
                   f"of {image_size} px, two views each, in float32, counted; parameters, gradients and activations without "
                   f"the optimizer's state{'; diamonds: the LoCo paper (table 7, section 5.6)' if paper else ''}.")


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns, rows = min(2, count), -(-count // 2)
    figure, axes = new_figure(columns, rows, COLUMN_WIDTH if columns == 1 else TEXT_WIDTH, 2.5 * rows, sharey=True)
    for ax in axes:
        ax.margins(y=0.12)
        ax.grid(axis="x", visible=False)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes


def _add_legend(figure: Figure, handles: Sequence[Patch], paper: bool) -> None:
    marks = [Line2D([], [], label="the paper's value", **PAPER_MARK)] if paper else []
    figure.legend(handles=[*handles, *marks], loc="outside lower center", ncols=3)


def _draw_shares(ax: Axes, complexity: EncoderComplexity, paper: Mapping[str, Sequence[float]] | None) -> None:
    positions = np.arange(len(complexity.stages))
    for offset, (cost, (_, color)) in zip((-0.5, 0.5), COSTS.items(), strict=True):
        x = positions + offset * BAR_WIDTH
        bars = ax.bar(x, list(complexity.percent(cost).values()), BAR_WIDTH, color=color)
        ax.bar_label(bars, fmt="%.0f", fontsize=6.5, padding=3)
        if paper is not None:
            ax.plot(x, paper[cost], **PAPER_MARK)
    ax.set_xticks(positions, [stage.name for stage in complexity.stages])


def _draw_savings(ax: Axes, savings: Sequence[float], paper: Mapping[str, float]) -> None:
    """Bars of :data:`STEPS`, those of one method side by side, each in its method's colour."""
    steps = [method for method, _ in STEPS]
    labels = []
    for position, method in enumerate(dict.fromkeys(steps)):
        name = method.removesuffix("_checkpointed")
        label = RULE_LABELS[name]
        color = method_color(Method(name, label, name))
        labels.append(f"{label} +\ncheckpointing" if method == CHECKPOINTED else label)
        left = position - (steps.count(method) - 1) * BAR_WIDTH / 2
        own = [(mode, saving) for (other, mode), saving in zip(STEPS, savings, strict=True) if other == method]
        for index, (mode, saving) in enumerate(own):
            hatch = "////" if mode == "block" or method == CHECKPOINTED else None
            bar = ax.bar(left + index * BAR_WIDTH, saving, BAR_WIDTH, color=color, hatch=hatch, edgecolor="white",
                         linewidth=0)
            ax.bar_label(bar, fmt="%.2f", fontsize=6.5, padding=3, bbox=dict(facecolor="white", linewidth=0, pad=0.5))
        if method in paper:  # left of the bars, where no number stands
            ax.plot(left - 0.75 * BAR_WIDTH, paper[method], **PAPER_MARK)
    ax.axhline(1, color=GREY, linewidth=0.8, zorder=0.9)  # below bars and their numbers
    ax.set_xticks(range(len(labels)), labels)
