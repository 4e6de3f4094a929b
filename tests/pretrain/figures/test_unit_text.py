"""Learning rules as text: what is drawn is what would be trained."""

from __future__ import annotations

import pytest
import torch

from pretrain.figures.unit_layout import read_model, rule_layout
from pretrain.figures.unit_text import WIDTH, units_as_text
from pretrain.learner import LocalContrastiveLearner
from pretrain.results.method import standard_method
from tests.conftest import ROOT, assert_one_line_error
from tests.pretrain.drawn_logs import draw_run

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
    ("resnet50", dict(type="decoupled", k=16)), ("presnet50", "loco"), ("shufflenet_v2_50", "gim"),
    ("resnet50", [(start, 16) for start in range(16)]),
])
def test_lines_fit_the_terminal(encoder, rule):
    """Deep encoders and many lanes stay within the width."""
    assert max(map(len, units_as_text(dict(encoder=encoder, rule=rule)).splitlines())) <= WIDTH


def test_models_are_read_from_configs_work_directories_and_checkpoints(tmp_path):
    """One rule looks the same from wherever it comes."""
    from_config = read_model(ROOT / "configs/pretrain/loco_resnet18_demo.py")
    assert units_as_text(from_config) == LOCO
    from_run = read_model(draw_run(tmp_path / "run", "gim"))
    assert units_as_text(from_run).startswith("GIM on ResNet-18 (width=16): 8 blocks, 4 local units")

    record = dict(method=standard_method("gim", dict(threshold=0.3)), setting=dict(encoder="resnet18"))
    torch.save({"state_dict": {}, "pretraining": record}, tmp_path / "epoch_1.pth")
    torch.save({"state_dict": {}, "meta": record}, tmp_path / "backbone.pth")
    for name in ("epoch_1.pth", "backbone.pth"):
        assert units_as_text(read_model(tmp_path / name)).startswith("GIM, T = 0.3 on ResNet-18: ")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="foreign.pth does not say how it was pretrained"):
        read_model(tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="run.json"):
        read_model(tmp_path)
    with pytest.raises(ValueError, match="model.rule, model.encoder"):
        read_model(ROOT / "configs/_base_/pretrain_runtime.py")
    with pytest.raises(FileNotFoundError, match="nothing.py does not exist"):
        read_model(tmp_path / "nothing.py")


def test_refusals_are_the_learners_and_name_the_source():
    """What training would refuse is not drawn."""
    model = dict(encoder="resnet18", rule=[(0, 4), (5, 8)])
    with pytest.raises(ValueError, match=r"^no local unit updates block\(s\) 4; add a unit"):
        units_as_text(model)
    with pytest.raises(ValueError, match=r"^mine\.py: no local unit updates block\(s\) 4"):
        units_as_text({**model, "source": "mine.py"})


@pytest.mark.slow
def test_show_units_trains_nothing(run_tool, tmp_path):
    """`tools/pretrain.py CONFIG --show-units` prints the drawing with the overrides, makes no file and needs no data."""
    work_dir, config = tmp_path / "work", "configs/pretrain/loco_resnet50_imagenet.py"
    options = ["--work-dir", work_dir, "--data-root", tmp_path / "nowhere", "--cfg-options", "model.encoder.type=resnet18"]
    finished = run_tool("pretrain", config, "--show-units", *options)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == LOCO + "\n"
    assert not work_dir.exists()


@pytest.mark.slow
def test_show_units_refuses_in_one_line(run_tool):
    """A wrong rule is the same one-line error as in training."""
    finished = run_tool("pretrain", "--show-units", "--cfg-options", "model.rule.window=0")
    assert_one_line_error(finished, "window is 0; a unit spans at least 1 stage")
