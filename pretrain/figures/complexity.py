"""What encoders and learning rules cost: shares of the stages, and memory of a step (LoCo, tables 6 and 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pretrain.costs.complexity import USUAL_SIZE, EncoderComplexity, stage_complexity
from pretrain.costs.memory import CHECKPOINTED, step_cost
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


def _published_savings() -> dict[str, float]:
    """The memory savings of LoCo's table 7 by rule."""
    table = json.loads((files("pretrain.results") / "papers" / "loco.json").read_text(encoding="utf-8"))["tables"]["7"]
    place = [column["metric"] for column in table["columns"]].index("memory_saving")
    return {row["method"]["rule"]: row["values"][place] for row in table["rows"] if row["method"] != table["baseline"]}


COSTS = {"flops": ("FLOPs", BLUE), "memory_elements": ("memory", ORANGE)}
PAPER_SHARES = {  # LoCo, table 6: percent by stage from the bottom up
    "resnet50": {"flops": (19.39, 25.09, 35.80, 19.73), "memory_elements": (43.64, 29.09, 21.82, 5.45)},
    "presnet50": {"flops": (13.50, 14.63, 14.77, 16.62, 20.45, 20.04),
                  "memory_elements": (15.46, 10.96, 19.48, 17.31, 19.48, 17.31)},
}
PAPER_GFLOPS = {"resnet50": 4.14, "presnet50": 4.16}
PAPER_SAVINGS = {"resnet50": {"gim": 1.81, "loco": 1.28}, "presnet50": _published_savings()}  # LoCo, section 5.6, table 7
COMPARED = ("simclr", CHECKPOINTED, "gim", "loco")
RECOMPUTED = ("gim", "loco")  # also with every block run again, which is what checkpointing does to SimCLR
BAR_WIDTH = 0.38
PAPER_MARK = dict(color=BLACK, marker="D", markersize=3.5, markerfacecolor="white", markeredgewidth=0.8, linestyle="")


def draw_stage_costs(encoders: Encoders, image_size: int = USUAL_SIZE) -> Drawing:
    """Shares of an encoder's stages in its FLOPs and its memory: LoCo's table 6, one panel an encoder.

    Args:
        encoders: name for the panel -> what :func:`pretrain.encoders.build_encoder` takes.
        image_size: side of the images; at 224, the paper's shares are marked for the encoders that it has.

    Raises:
        ValueError: there is no encoder, an encoder is unknown, or it cannot work on such images.
    """
    _check_named(encoders)
    complexities = {name: stage_complexity(build_encoder(spec), image_size) for name, spec in encoders.items()}
    paper = {name: PAPER_SHARES[name] for name in encoders if name in PAPER_SHARES and image_size == USUAL_SIZE}
    with figure_style():
        figure, axes = _panels(encoders, sharey=True)
        for ax, (name, complexity) in zip(axes, complexities.items(), strict=False):
            _draw_shares(ax, complexity, paper.get(name))
            paper_total = f" (paper: {PAPER_GFLOPS[name]:.2f})" if name in paper else ""
            ax.set_title(f"{name}: {complexity.total('flops') / 1e9:.3g} GFLOPs{paper_total}")
        axes[0].set_ylabel("share of the encoder (%)")
        handles: list[Patch | Line2D] = [Patch(color=color, label=label) for label, color in COSTS.values()]
        figure.legend(handles=[*handles, *_paper_handle(bool(paper))], loc="outside lower center", ncols=3)
    caption = (f"FLOPs (multiply-adds of convolutions and linear layers) and memory (elements of convolution outputs in "
               f"residual branches) of every stage in percent of the encoder, {image_size} px"
               f"{'; diamonds: table 6 of the LoCo paper' if paper else ''}.")
    return Drawing(figure, caption, {"image_size": image_size, "encoders": {
        name: {**complexity.as_dict(), "paper": paper.get(name)} for name, complexity in complexities.items()}})


def draw_memory_savings(encoders: Encoders, batch_size: int = 64, image_size: int = USUAL_SIZE) -> Drawing:
    """How many times less memory a training step takes than SimCLR's: LoCo's table 7 and section 5.6, one panel an encoder.

    The step is counted on fake tensors, see :mod:`pretrain.costs.memory`.

    Args:
        encoders: name for the panel -> what :func:`pretrain.encoders.build_encoder` takes.
        batch_size: images of the step, views counted apart.
        image_size: side of the images.

    Raises:
        ValueError: there is no encoder, or :func:`pretrain.costs.memory.step_cost` refuses something.
    """
    _check_named(encoders)
    costs = {name: _peaks(spec, batch_size, image_size) for name, spec in encoders.items()}
    paper = {name: PAPER_SAVINGS[name] for name in encoders if name in PAPER_SAVINGS and image_size == USUAL_SIZE}
    with figure_style():
        figure, axes = _panels(encoders, sharey=True)
        for ax, (name, peaks) in zip(axes, costs.items(), strict=False):
            _draw_savings(ax, peaks, paper.get(name, {}))
            ax.set_title(f"{name}: SimCLR {peaks['simclr']['none'] / 1e9:.2f} GB")
        axes[0].set_ylabel("memory saving over SimCLR (×)")
        handles = [Patch(facecolor="white", edgecolor=BLACK, hatch="////", label="every block is run again"),
                   *_paper_handle(bool(paper))]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    caption = (f"Memory saving: SimCLR's peak memory of a training step over the method's, {batch_size} images of "
               f"{image_size} px in float32, counted; parameters, gradients and activations without the optimizer's state"
               f"{'; diamonds: the LoCo paper (table 7, section 5.6)' if paper else ''}.")
    return Drawing(figure, caption, {"batch_size": batch_size, "image_size": image_size, "encoders": {
        name: {"peak_bytes": peaks, "saving": _savings(peaks), "paper": paper.get(name)} for name, peaks in costs.items()}})


def _check_named(encoders: Encoders) -> None:
    if not encoders:
        raise ValueError("there is no encoder to draw; pass at least one, such as resnet50")


def _panels(encoders: Encoders, **options: object) -> tuple:
    columns = min(2, len(encoders))
    return new_figure(columns, -(-len(encoders) // columns), COLUMN_WIDTH if columns == 1 else TEXT_WIDTH, 2.5, **options)


def _draw_shares(ax: Axes, complexity: EncoderComplexity, paper: Mapping[str, Sequence[float]] | None) -> None:
    positions = np.arange(len(complexity.stages))
    for offset, (cost, (_, color)) in zip((-0.5, 0.5), COSTS.items(), strict=True):
        x = positions + offset * BAR_WIDTH
        bars = ax.bar(x, list(complexity.percent(cost).values()), BAR_WIDTH, color=color)
        ax.bar_label(bars, fmt="%.0f", fontsize=6.5, padding=3)
        if paper is not None:
            ax.plot(x, paper[cost], **PAPER_MARK)
    ax.margins(y=0.12)
    ax.set_xticks(positions, [stage.name for stage in complexity.stages])
    ax.grid(axis="x", visible=False)


def _peaks(encoder: str | Mapping[str, Any], batch_size: int, image_size: int) -> dict[str, dict[str, int]]:
    """Peak bytes by method and mode of recomputation."""
    return {method: {mode: step_cost(
                         encoder, method, batch_size=batch_size // 2, image_size=image_size, recompute=mode).peak_bytes
                     for mode in (("none", "block") if method in RECOMPUTED else ("none",))}
            for method in COMPARED}


def _savings(peaks: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    baseline = peaks["simclr"]["none"]
    return {method: {mode: baseline / peak for mode, peak in modes.items()} for method, modes in peaks.items()}


def _draw_savings(ax: Axes, peaks: Mapping[str, Mapping[str, int]], paper: Mapping[str, float]) -> None:
    labels = []
    for position, (method, savings) in enumerate(_savings(peaks).items()):
        name = method.removesuffix("_checkpointed")
        rule = Method(name, RULE_LABELS[name], name)
        offsets = (0,) if len(savings) == 1 else (-0.5, 0.5)
        for offset, (mode, saving) in zip(offsets, savings.items(), strict=True):
            again = mode == "block" or method == CHECKPOINTED
            bar = ax.bar(position + offset * BAR_WIDTH, saving, BAR_WIDTH, color=method_color(rule), hatch="////" * again,
                         edgecolor="white", linewidth=0)
            ax.bar_label(bar, fmt="%.2f", fontsize=6.5, padding=3,
                         bbox=dict(facecolor="white", linewidth=0, pad=0.5))  # over the line
        if method in paper:  # left of the bars, where no number stands
            ax.plot(position + (offsets[0] - 0.75) * BAR_WIDTH, paper[method], **PAPER_MARK)
        labels.append(f"{rule.label} +\ncheckpointing" if method == CHECKPOINTED else rule.label)
    ax.axhline(1, color=GREY, linewidth=0.8, zorder=0.9)  # below bars and their numbers
    ax.margins(y=0.12)
    ax.set_xticks(range(len(labels)), labels)
    ax.grid(axis="x", visible=False)


def _paper_handle(shown: bool) -> list[Line2D]:
    return [Line2D([], [], label="the paper's value", **PAPER_MARK)] if shown else []
