"""The picture of a learning rule: every unit from its loss down to its first block, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from pretrain.figures.style import METHOD_COLORS, VERMILION, figure_style, save_figure
from pretrain.figures.units import BLOCK_HEIGHT, draw_units
from pretrain.local.units import RULES as REGISTERED
from pretrain.local.units import build_units, simclr_units
from pretrain.objectives import OBJECTIVES, Objective
from tests.pretrain.figures.test_unit_text import CUSTOM_MODEL

SMALL = dict(type="resnet18", width=16)
RULES = ["simclr", "gim", "loco", dict(type="loco", window=3), "upper_gradient", dict(type="sharing", blocks=2),
         dict(type="decoupled", k=8), [(0, 3), (1, 8), (4, 5)]]


def arrowheads(ax):
    """``(x, y)`` of the heads of the gradients' arrows."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "v"]


def blocks(ax):
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


@pytest.mark.parametrize("rule", RULES)
def test_gradients_end_at_the_first_block_of_their_unit(rule):
    """Every arrow's head lies in the unit's first block, and its line rises to a loss on the last one."""
    (ax,) = draw_units([dict(encoder=SMALL, rule=rule)]).figure.axes
    units = build_units(rule, {"res2": (0, 2), "res3": (2, 4), "res4": (4, 6), "res5": (6, 8)})
    assert len(blocks(ax)) == 8
    height = blocks(ax)[1].get_y() - blocks(ax)[0].get_y()
    heads = arrowheads(ax)
    losses = [text for text in ax.texts if text.get_text().endswith(" loss")]
    for unit, (x, y), loss in zip(units, heads, losses, strict=True):
        assert int(y / height) == unit.start
        assert int(loss.get_position()[1] / height) == unit.end - 1
        shaft = [line for line in ax.lines if len(line.get_xdata()) == 2 and set(line.get_xdata()) == {x}
                 and y <= min(line.get_ydata()) < unit.end * height]
        assert max(max(line.get_ydata()) for line in shaft) == loss.get_position()[1]


def test_blocks_that_a_gradient_passes_through_are_drawn_otherwise():
    """Upper gradient only: dotted through the own stage, full where the loss updates."""
    (ax,) = draw_units([dict(encoder=SMALL, rule="upper_gradient")]).figure.axes
    dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
    spans = [sorted(np.round(np.array(line.get_ydata()) / BLOCK_HEIGHT, 1)) for line in dotted]
    assert spans == [[2.0, 3.7], [4.0, 5.7]]  # res3's and res4's own stages, up to where their losses stand


def test_untrained_blocks_are_hatched_and_named():
    """In the picture, its caption and its numbers."""
    drawing = draw_units([CUSTOM_MODEL])
    (ax,) = drawing.figure.axes
    hatched = [index for index, patch in enumerate(blocks(ax)) if patch.get_hatch()]
    assert hatched == drawing.numbers["rules"][0]["untrained"] == [4, 5, 7]
    assert all(patch.get_edgecolor()[:3] == to_rgb(VERMILION) for patch in blocks(ax) if patch.get_hatch())
    assert {"4 untrained", "5 untrained", "7 untrained"} <= {text.get_text() for text in ax.texts}
    assert "leaves blocks 4, 5, 7 untrained" in drawing.caption
    assert any("no unit updates" in text.get_text() for text in drawing.figure.legends[0].get_texts())


def test_numbers_are_the_rules():
    """Units with the blocks that they update, as plain data; of copied stages none is updated."""
    drawing = draw_units([CUSTOM_MODEL, dict(encoder=SMALL, rule="loco", soft_sharing=dict(coefficient=1e-3))])
    custom, soft = json.loads(json.dumps(drawing.numbers))["rules"]
    assert [(unit["start"], unit["end"], unit["updates"]) for unit in custom["units"]] == [
        (0, 4, [0, 1]), (2, 4, [2, 3]), (6, 7, [6])]
    assert [unit["updates"] for unit in soft["units"]] == [[], [0, 1], [2, 3], [4, 5, 6, 7]]
    assert custom["stages"]["res5"] == [6, 8]


@pytest.mark.parametrize("models", [
    [dict(encoder="resnet50", rule="simclr"), dict(encoder="resnet50", rule="gim"),
     dict(encoder="resnet50", rule="loco", head=dict(conv_blocks=1))],
    [dict(encoder="resnet50", rule=dict(type="decoupled", k=16), head=dict(conv_blocks="plain_conv")),
     dict(encoder="shufflenet_v2_50", rule="loco"), dict(encoder=SMALL, rule="gim"),
     dict(encoder="presnet50", rule="loco")],
    [CUSTOM_MODEL],
    [dict(encoder="resnet50", rule=[(start, 16) for start in range(16)])],
])
def test_no_text_overlaps_another_or_leaves_the_picture(models):
    """Titles, block numbers, losses and notes of all kinds of rules, side by side and in rows."""
    figure = draw_units(models).figure
    with figure_style():
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        texts = [text for ax in figure.axes for text in ax.texts if text.get_text()] + figure.legends[0].get_texts()
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for index, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        for other, other_box in boxes[:index]:
            width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            assert width <= 0 or height <= 1.5, (text, other)  # a pixel or so of empty ascent may coincide


def test_equal_rules_have_unique_names():
    """Two pretrainings of one rule are called by where they come from; equal rules on other encoders stay as they are."""
    models = [dict(encoder=SMALL, rule="gim", source="x/run"), dict(encoder=SMALL, rule="gim", source="y/run"),
              dict(encoder="resnet18", rule="gim", source="z/run")]
    drawing = draw_units(models)
    assert [rule["method"] for rule in drawing.numbers["rules"]] == ["GIM (x)", "GIM (y)", "GIM"]
    titles = [ax.texts[0].get_text().split("\n")[0] for ax in drawing.figure.axes]
    assert titles == ["GIM (x)", "GIM (y)", "GIM"]


def test_own_rules_and_objectives_are_named(monkeypatch):
    """A rule and an objective that a user has registered stand under their own names."""
    monkeypatch.setitem(REGISTERED, "top_down", lambda stages: simclr_units(stages))
    monkeypatch.setitem(OBJECTIVES.module_dict, "Flat", Flat)
    models = [dict(encoder=SMALL, rule="top_down"), dict(encoder=SMALL, rule="gim", objective="Flat"),
              dict(encoder=SMALL, rule="gim", method_name="mine")]
    drawing = draw_units(models)
    assert [rule["method"] for rule in drawing.numbers["rules"]] == ["top_down", "GIM, Flat loss", "mine"]
    assert "NT-Xent" not in drawing.caption


class Flat(Objective):
    """An objective without a slope."""

    label = "Flat loss"

    def forward(self, projections):
        return 0 * projections.sum(), {}


def test_methods_have_their_colors():
    """The top unit's arrow in the full colour."""
    figure = draw_units([dict(encoder=SMALL, rule=rule) for rule in ("simclr", "gim", "loco")]).figure
    for rule, ax in zip(("simclr", "gim", "loco"), figure.axes, strict=True):
        last = [line for line in ax.lines if line.get_marker() == "v"][-1]
        np.testing.assert_allclose(last.get_color(), to_rgb(METHOD_COLORS[rule]))


def test_files_are_equal_for_equal_rules(tmp_path):
    """PNG and SVG, byte for byte."""
    first, second = (save_figure(draw_units([CUSTOM_MODEL]).figure, tmp_path / name) for name in ("one", "two"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_nothing_to_draw_is_refused():
    """An empty list, and what training would refuse."""
    with pytest.raises(ValueError, match="no learning rule to draw"):
        draw_units([])
    with pytest.raises(ValueError, match="reaches past the encoder's end"):
        draw_units([dict(encoder=SMALL, rule=[(0, 9)])])
