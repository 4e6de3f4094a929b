"""Learning rules as text and as pictures: what is drawn is what would be trained."""

from __future__ import annotations

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from pretrain.figures.style import METHOD_COLORS, figure_style, save_figure
from pretrain.figures.unit_text import WIDTH, read_model, rule_layout, units_as_text
from pretrain.figures.units import draw_models, draw_units
from pretrain.learner import LocalContrastiveLearner
from pretrain.results.method import standard_method
from tests.conftest import DEMO_ENCODER, ROOT
from tests.pretrain.synthetic_logs import draw_run

pytestmark = pytest.mark.repository

FIRST_LANE = 14  # column, where stages have names of four letters
LOCO = """\
LoCo on ResNet-18: 8 blocks, 4 local units

     ┌────┐
res5 │  7 │      ┏━━ loss_res5 [4,8): 1 residual block, MLP 512-512-128
     │  6 │      ┃
     ├────┤      ┃
res4 │  5 │   ┏━━╋━━ loss_res4 [2,6): 1 residual block, MLP 256-256-128
     │  4 │   ┃  ▼
     ├────┤   ┃
res3 │  3 │   ┃  ┏━━ loss_res3 [0,4): 1 residual block, MLP 128-128-128
     │  2 │   ▼  ┃
     ├────┤      ┃
res2 │  1 │   ┏━━╋━━ loss_res2 [0,2): 1 residual block, MLP 64-64-128
     │  0 │   ▼  ▼
     └────┘
        ▲ images

┃ the loss's gradient updates the block
▼ and goes no further down"""

CUSTOM = """\
units [0,4) updating [0,2), [2,4), [6,7), 3x3 conv on ResNet-18 (width=16): 8 blocks, 3 local units

     ┌────┐
res5 │  7 │×
     │  6 │   ▼━━━━━ loss_block6 [6,7): 3×3 conv, MLP 128-128-128
     ├────┤
res4 │  5 │×
     │  4 │×
     ├────┤
     │    │      ┏━━ loss_res3_from2 [2,4): 3×3 conv, MLP 32-32-128
res3 │  3 │   ┌━━╋━━ loss_res3_from0 [0,4) updating [0,2): 3×3 conv, MLP 32-32-128
     │  2 │   ┊  ▼
     ├────┤   ┊
res2 │  1 │   ┃
     │  0 │   ▼
     └────┘
        ▲ images

┃ the loss's gradient updates the block
┊ it passes through the block without updating it
▼ and goes no further down
× no unit updates blocks 4, 5, 7"""
CUSTOM_MODEL = dict(
    encoder=dict(type="resnet18", width=16), rule=[dict(start=0, end=4, updates=(0, 2)), (2, 4), (6, 7)],
    head=dict(conv_blocks="plain_conv"), allow_untrained=True)
"""A list of units with everything that a rule can have: equal ends, a part that is passed through, untrained blocks."""

SOFT = """\
LoCo, no conv block, soft sharing 0.001 on ResNet-18 (width=16): 8 blocks, 4 local units

     ┌────┐
res5 │  7 │      ┏━━ loss_res5 [4,8): MLP 128-128-128
     │  6 │      ┃
     ├────┤      ┃
res4 │  5 │   ╔━━╋━━ loss_res4 [2,6): MLP 64-64-128
     │  4 │   ║  ▼
     ├────┤   ║
res3 │  3 │   ┃  ╔━━ loss_res3 [0,4): MLP 32-32-128
     │  2 │   ▼  ║
     ├────┤      ║
res2 │  1 │   ╔━━╋━━ loss_res2 [0,2): MLP 16-16-128
     │  0 │   ▼  ▼
     └────┘
        ▲ images

┃ the loss's gradient updates the block
║ it updates the unit's own copy of the block
▼ and goes no further down"""


@pytest.mark.parametrize(("model", "text"), [
    (dict(encoder="resnet18", rule="loco", head=dict(conv_blocks=1)), LOCO),
    (CUSTOM_MODEL, CUSTOM),
    (dict(encoder=dict(type="resnet18", width=16), rule="loco", soft_sharing=dict(coefficient=1e-3)), SOFT),
])
def test_drawings(model, text):
    """LoCo's overlap, a list of units with all that can be in one, and copies of shared stages, as they should look."""
    assert units_as_text(model) == text


@pytest.mark.parametrize("rule", [
    "simclr", "gim", dict(type="loco", window=3), "upper_gradient", dict(type="sharing", blocks=2),
    dict(type="decoupled", k=8), dict(type="decoupled", k=4, window=3), [(0, 3), (1, 8), (1, 5), (4, 5)],
])
def test_lanes_reach_as_far_as_the_units(rule):
    """Read back from the text, every unit covers exactly its blocks: its lane begins at its loss and ends at its start."""
    model = dict(encoder=dict(type="resnet18", width=16), rule=rule)
    lines = units_as_text(model).splitlines()
    column = {int(line[6:9]): index for index, line in enumerate(lines) if line[5:6] == "│" and line[6:9].strip()}
    for shown in rule_layout(model).units:
        top = next(index for index, line in enumerate(lines) if f"loss_{shown.name} [" in line)
        place = FIRST_LANE + 3 * shown.lane
        lane = [line[place] if len(line) > place else " " for line in lines]
        assert lane[top] in "┏┌▼▽" and lane[column[shown.unit.start]] in "▼▽"
        assert all(sign in "┃┊╋" for sign in lane[top + 1:column[shown.unit.start]])
        assert column[shown.unit.end - 1] == top or lines[top][6:9].strip() == ""  # several losses on one block


def test_the_layout_is_the_learners():
    """Units, names and heads are those of the model that would be trained; units in one lane do not overlap."""
    model = dict(encoder=dict(type="resnet18", width=16), rule=dict(type="decoupled", k=8, window=3),
                 head=dict(conv_blocks="stage", mlp_layers=3, hidden_channels=64))
    learner, layout = LocalContrastiveLearner(**model), rule_layout(model)
    assert [shown.unit for shown in layout.units] == learner.units
    assert [shown.name for shown in layout.units] == learner.unit_names
    for shown, head in zip(layout.units, learner.heads, strict=True):
        assert shown.head_widths == (head.mlp[0].in_features, 64, 64, 128)
        assert shown.head_convs.split()[0] == str(len(head.convs))
    for lane in range(layout.num_lanes):
        units = [shown.unit for shown in layout.units if shown.lane == lane]
        assert all(lower.end <= upper.start for lower, upper in zip(units, units[1:], strict=False))
    assert layout.num_lanes == 3


@pytest.mark.parametrize(("encoder", "rule"), [
    ("resnet50", dict(type="decoupled", k=16)), ("shufflenet_v2_50", "gim"),
    ("resnet50", [(start, 16) for start in range(16)]),
])
def test_lines_fit_the_terminal(encoder, rule):
    """Deep encoders and many lanes stay within the width."""
    assert max(map(len, units_as_text(dict(encoder=encoder, rule=rule)).splitlines())) <= WIDTH


def test_models_are_read_from_configs_work_directories_and_checkpoints(tmp_path):
    """One rule looks the same from wherever it comes."""
    loco = dict(encoder=DEMO_ENCODER, rule="loco", head=dict(conv_blocks=1))
    assert units_as_text(read_model(ROOT / "configs/pretrain/loco_resnet18_demo.py")) == units_as_text(loco)
    from_run = read_model(draw_run(tmp_path / "run", "gim"))
    assert units_as_text(from_run).startswith("GIM on ResNet-18 (width=16): 8 blocks, 4 local units")
    record = dict(method=standard_method("gim", dict(threshold=0.3)), setting=dict(encoder="resnet18"))
    torch.save({"state_dict": {}, "pretraining": record}, tmp_path / "epoch_1.pth")
    torch.save({"state_dict": {}, "meta": record}, tmp_path / "backbone.pth")
    for name in ("epoch_1.pth", "backbone.pth"):
        assert units_as_text(read_model(tmp_path / name)).startswith("GIM, T = 0.3 on ResNet-18: ")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="foreign.pth"):
        read_model(tmp_path / "foreign.pth")
    with pytest.raises(FileNotFoundError, match="nothing.py"):
        read_model(tmp_path / "nothing.py")
    with pytest.raises(ValueError, match="updates block"):
        units_as_text(dict(encoder="resnet18", rule=[(0, 4), (5, 8)]))


@pytest.mark.slow
def test_show_units_trains_nothing(run_tool, tmp_path):
    """`tools/pretrain.py CONFIG --show-units` prints the drawing with the overrides, makes no file and needs no data."""
    work_dir, config = tmp_path / "work", "configs/pretrain/loco_resnet50_imagenet.py"
    options = ["--work-dir", work_dir, "--data-root", tmp_path / "nowhere", "--cfg-options", "model.encoder.type=resnet18"]
    finished = run_tool("pretrain", config, "--show-units", *options)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == LOCO + "\n"
    assert not work_dir.exists()


SMALL = dict(type="resnet18", width=16)


def draw(*models):
    return draw_models(models, [f"run{place}" for place in range(len(models))])


def arrowheads(ax):
    """``(x, y)`` of the heads of the gradients' arrows."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "v"]


@pytest.mark.parametrize("rule", [
    "simclr", "loco", dict(type="loco", window=3), "upper_gradient", dict(type="decoupled", k=8), [(0, 3), (1, 8), (4, 5)]])
def test_gradients_end_at_the_first_block_of_their_unit(rule):
    """Every arrow's head lies in the unit's first block, and its line rises to a loss on the last one."""
    (ax,) = draw(dict(encoder=SMALL, rule=rule)).figure.axes
    units = rule_layout(dict(encoder=SMALL, rule=rule)).units
    losses = [text for text in ax.texts if text.get_text().endswith(" loss")]
    for shown, (x, y), loss in zip(units, arrowheads(ax), losses, strict=True):
        assert int(y) == shown.unit.start
        assert int(loss.get_position()[1]) == shown.unit.end - 1
        shaft = [line for line in ax.lines if len(line.get_xdata()) == 2 and set(line.get_xdata()) == {x}
                 and y <= min(line.get_ydata()) < shown.unit.end]
        assert max(max(line.get_ydata()) for line in shaft) == loss.get_position()[1]


def test_what_is_passed_through_and_what_is_untrained_is_drawn_otherwise():
    """Dotted through blocks that a gradient passes, hatched where no unit updates the block."""
    drawing = draw(CUSTOM_MODEL, dict(encoder=SMALL, rule="upper_gradient"))
    custom, upper = drawing.figure.axes
    blocks = [patch for patch in custom.patches if isinstance(patch, Rectangle)]
    assert [index for index, patch in enumerate(blocks) if patch.get_hatch()] == [4, 5, 7]
    assert "leaves blocks 4, 5, 7 untrained" in drawing.caption
    dotted = [tuple(line.get_ydata()) for line in upper.lines if line.get_linestyle() == ":"]
    assert dotted == [(2.25, 3.7), (4.25, 5.7)] or dotted == [(2, 3.7), (4, 5.7)]  # res3's and res4's own stages


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
    figure = draw(*models).figure
    with figure_style():
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        texts = [text for ax in figure.axes for text in (*ax.texts, ax.title) if text.get_text()]
        texts += figure.legends[0].get_texts()
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for index, (text, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        for other, other_box in boxes[:index]:
            width = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
            height = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
            assert width <= 0 or height <= 1.5, (text, other)  # a pixel or so of empty ascent may coincide


def test_pictures_have_their_methods_colors_and_names(tmp_path):
    """The top unit's arrow in the full colour; equal rules are distinguished by their paths; equal files for equal rules."""
    runs = [draw_run(tmp_path / name, rule) for name, rule in (("a", "gim"), ("b", "gim"), ("c", "loco"))]
    figures = [draw_units(runs).figure for _ in range(2)]
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in figures[0].axes]
    assert titles[0].endswith("/a") and titles[1].endswith("/b") and titles[2] == "LoCo on ResNet-18 (width=16)"
    for rule, ax in zip(("gim", "gim", "loco"), figures[0].axes, strict=True):
        last = [line for line in ax.lines if line.get_marker() == "v"][-1]
        assert last.get_color() == pytest.approx(to_rgb(METHOD_COLORS[rule]))
    files = [save_figure(figure, tmp_path / name) for figure, name in zip(figures, ("one", "two"), strict=True)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
