"""Bars of tables 6 and 7: their heights are what the counts yield, and the paper's values are the paper's."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.costs.complexity import stage_complexity
from pretrain.costs.memory import step_cost
from pretrain.encoders import build_encoder
from pretrain.figures.costs import PAPER_SAVINGS, PAPER_SHARES, draw_memory_savings, draw_stage_costs
from pretrain.figures.style import METHOD_COLORS

SMALL = dict(type="resnet18", width=16)


def heights(ax):
    return [bar.get_height() for container in ax.containers for bar in container]


def diamonds(ax):
    """``x -> y`` of the marks of the paper's values."""
    return {x: y for line in ax.lines if line.get_marker() == "D" for x, y in line.get_xydata()}


def test_stage_bars_are_the_counted_shares():
    """FLOPs and memory of every stage; numbers as of the complexity function; nothing of the paper at another size."""
    drawing = draw_stage_costs({"small": SMALL, "resnet50": "resnet50"}, image_size=64)
    for ax, spec in zip(drawing.figure.axes, (SMALL, "resnet50"), strict=True):
        counted = stage_complexity(build_encoder(spec), 64)
        shares = [*counted.percent("flops").values(), *counted.percent("memory_elements").values()]
        np.testing.assert_allclose(heights(ax), shares)
        assert diamonds(ax) == {}
    assert drawing.figure.axes[0].get_ylabel() == "share of the encoder (%)"
    assert "paper" not in drawing.caption


@pytest.mark.parametrize("name", PAPER_SHARES)
def test_the_papers_shares_stand_at_their_bars(name):
    """Every diamond stands on the middle of a bar and within 2 points of its height; the paper's columns add up to 100 %."""
    for shares in PAPER_SHARES[name].values():
        assert sum(shares) == pytest.approx(100, abs=0.03)
    drawing = draw_stage_costs({name: name})
    (ax,) = drawing.figure.axes
    bars = {round(bar.get_center()[0], 6): bar.get_height() for container in ax.containers for bar in container}
    marks = {round(x, 6): y for x, y in diamonds(ax).items()}
    assert marks.keys() == bars.keys()
    for x, share in marks.items():
        assert share == pytest.approx(bars[x], abs=2)  # PResNet-50's memory: docs/costs.md
    assert "paper: 4.1" in ax.get_title() and "table 6 of the LoCo paper" in drawing.caption


@pytest.mark.slow
def test_memory_bars_are_the_counted_ratios():
    """SimCLR, checkpointed SimCLR, GIM and LoCo, the latter two with and without recomputation, in the methods' colours."""
    drawing = draw_memory_savings({"small": SMALL}, batch_size=2, image_size=64)
    (ax,) = drawing.figure.axes
    costs = [("simclr", "none"), ("simclr_checkpointed", "none"), ("gim", "none"), ("gim", "block"), ("loco", "none"),
             ("loco", "block")]
    peaks = [step_cost(SMALL, method, batch_size=2, image_size=64, recompute=mode).peak_bytes for method, mode in costs]
    np.testing.assert_allclose(heights(ax), [peaks[0] / peak for peak in peaks])
    assert diamonds(ax) == {}
    colors = [bar.get_facecolor() for container in ax.containers for bar in container]
    assert [f"#{''.join(f'{round(255 * c):02X}' for c in color[:3])}" for color in colors] == [
        METHOD_COLORS[method.split("_")[0]] for method, _ in costs]


@pytest.mark.slow
def test_the_papers_savings_are_marked():
    """ResNet-50's GIM and LoCo, beside the bars without recomputation; whose bars they are does not matter here."""
    drawing = draw_memory_savings({"resnet50": SMALL}, batch_size=2)
    assert list(diamonds(drawing.figure.axes[0]).values()) == [1.81, 1.28] == list(PAPER_SAVINGS["resnet50"].values())
    assert PAPER_SAVINGS["presnet50"] == {"gim": 4.56, "loco": 2.76}
