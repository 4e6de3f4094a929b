"""Training curves: what is drawn is what was logged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pretrain.figures.curves import draw_accuracy, draw_curves, draw_learning_rate, draw_throughput, group_runs
from pretrain.figures.style import METHOD_COLORS, figure_style, save_figure
from pretrain.training_log import read_training_log
from tests.pretrain.drawn_logs import UNITS, draw_records, draw_run, write_log


@pytest.fixture
def runs(tmp_path):
    """A run of SimCLR, GIM and LoCo each."""
    return [draw_run(tmp_path / rule, rule) for rule in UNITS]


def shown(drawing):
    return [ax for ax in drawing.figure.axes if ax.get_visible()]


def test_lines_and_numbers_are_the_logs(runs):
    """Every unit's line has the log's losses over the epochs done; the numbers are the same ones."""
    drawing = draw_curves(runs)
    assert [ax.get_title() for ax in shown(drawing)] == ["SimCLR", "GIM", "LoCo"]
    for work_dir, ax, numbers in zip(runs, shown(drawing), drawing.numbers["runs"], strict=True):
        log = read_training_log(work_dir)
        assert numbers["work_dir"] == str(work_dir) and list(numbers["series"]) == log.units()
        lines = {line.get_label(): line for line in ax.lines}
        for unit in log.units():
            epochs, values = log.series(f"loss_{unit}")
            assert numbers["series"][unit] == {"epoch": epochs, "value": values}
            np.testing.assert_array_equal(lines[unit].get_xydata(), np.column_stack([epochs, values]))
    json.dumps(drawing.numbers)


def test_accuracy_is_in_percent(runs):
    """The log has shares."""
    values = draw_accuracy(runs[:1]).numbers["runs"][0]["series"]["res5"]["value"]
    assert values == [100 * value for value in read_training_log(runs[0]).series("accuracy_res5")[1]]


@pytest.mark.parametrize(("draw", "label"), [
    (draw_curves, "training loss (nats)"), (draw_accuracy, "contrastive accuracy (%)"),
    (draw_learning_rate, "learning rate"), (draw_throughput, "throughput (images/s)"),
])
def test_axes_say_what_they_show(runs, draw, label):
    """Labels with units, panels with one scale, and a caption that names the methods."""
    drawing = draw(runs)
    axes = shown(drawing)
    assert axes[0].get_ylabel() == label
    assert {ax.get_xlabel() for ax in axes} == {"epoch"}
    assert len({ax.get_ylim() for ax in axes}) == len({ax.get_xlim() for ax in axes}) == 1
    assert all(method in drawing.caption for method in ("SimCLR", "GIM", "LoCo"))


def test_learning_rate_and_throughput_are_the_logs(runs):
    """One line a run, with the log's values."""
    for work_dir, line in zip(runs, shown(draw_throughput(runs))[0].lines, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), read_training_log(work_dir).series("images_per_second")[1])
    [line] = shown(draw_learning_rate(runs[:1]))[0].lines
    np.testing.assert_array_equal(line.get_xydata(), np.transpose(read_training_log(runs[0]).series("lr")))
    assert line.get_color() == METHOD_COLORS["simclr"]


def legend_of(drawing):
    return [text.get_text() for text in drawing.figure.legends[0].get_texts()]


def test_equal_schedules_are_one_line(runs, tmp_path):
    """However many runs follow it; what is another schedule is another line."""
    drawing = draw_learning_rate(runs)
    assert len(shown(drawing)[0].lines) == 1 and legend_of(drawing) == ["all 3 configs"]
    assert [run["method"] for run in drawing.numbers["runs"]] == ["SimCLR", "GIM", "LoCo"]
    longer = draw_run(tmp_path / "longer", "loco", epochs=3, max_epochs=3)
    drawing = draw_learning_rate([*runs, longer])
    assert [len(line.get_xdata()) for line in shown(drawing)[0].lines] == [4, 6]
    assert legend_of(drawing) == ["3 configs: SimCLR; GIM; LoCo", "LoCo (longer)"]
    assert max(line.get_linewidth() for line in shown(drawing)[0].lines) <= 3


@pytest.fixture
def many(tmp_path):
    """Twelve configs of one method, in folders of long and awkward names."""
    return [draw_run(tmp_path / f"_a $x_{{$ <b>ü {'a_long_name_' * 5}{index}", max_epochs=2 + index) for index in range(12)]


@pytest.mark.parametrize("draw", [draw_curves, draw_accuracy, draw_learning_rate, draw_throughput])
def test_nothing_leaves_the_picture_and_panels_stay_large(many, draw):
    """Titles and legends of many runs with long names."""
    figure = draw(many).figure
    with figure_style():
        figure.draw_without_rendering()
        texts = [text for legend in figure.legends for text in legend.get_texts()] + [ax.title for ax in figure.axes]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        sizes = [ax.get_window_extent().height / figure.dpi for ax in figure.axes]
    assert len(boxes) >= 1 and min(sizes) > 1.1
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
    titles = [ax.title.get_window_extent() for ax in figure.axes if ax.get_title()]
    assert not any(one.overlaps(other) for index, one in enumerate(titles) for other in titles[:index])


def test_runs_of_one_method_are_told_apart_in_one_panel(many):
    """No two lines look alike, and the legend has them all, names that begin with an underscore included."""
    drawing = draw_throughput(many)
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in shown(drawing)[0].lines]
    assert len(set(looks)) == 12 == len(legend_of(drawing))


def test_folders_above_stand_for_the_runs_below(runs, tmp_path):
    """All that they hold, each run once."""
    assert [group.logs[0].work_dir for group in group_runs([runs[0], tmp_path])] == [
        runs[0], tmp_path / "gim", tmp_path / "loco"]


@pytest.mark.parametrize(("model", "loader", "told"), [
    ({}, {"batch_size": 64}, "batch size (32, 64)"),
    ({"subsampling": {"threshold": 0.0}}, {"batch_size": 32}, "threshold (none, 0)"),
    ({}, {"batch_size": 32}, None),
])
def test_what_cannot_be_compared_is_told(tmp_path, model, loader, told):
    """Losses of unlike batches and thresholds stand on one axis, so the caption warns."""
    runs = [draw_run(tmp_path / "gim", "gim"), draw_run(tmp_path / "loco")]
    for work_dir, options, batches in zip(runs, ({}, model), ({"batch_size": 32}, loader), strict=True):
        record = json.loads((work_dir / "run.json").read_text())
        record["config"]["model"].update(options)
        record["config"]["train_dataloader"] = batches
        (work_dir / "run.json").write_text(json.dumps(record))
    warning = f" Values of runs that differ in {told} cannot be compared."
    for draw in (draw_curves, draw_accuracy):
        caption = draw(runs).caption
        assert caption.endswith(warning) if told else "compared" not in caption


def test_the_top_unit_has_the_methods_color(runs):
    """In every panel and figure, lighter ones below."""
    for rule, ax in zip(UNITS, shown(draw_curves(runs)), strict=True):
        np.testing.assert_allclose(ax.lines[-1].get_color(), to_rgb(METHOD_COLORS[rule]))
    assert [line.get_color() for line in shown(draw_throughput(runs))[0].lines] == [METHOD_COLORS[rule] for rule in UNITS]


def test_seeds_share_a_panel_and_other_configs_do_not(tmp_path):
    """Runs that differ in their seed alone are one group; another schedule makes another panel that is told apart."""
    seeds = [draw_run(tmp_path / f"seed{seed}", seed=seed) for seed in range(3)]
    longer = draw_run(tmp_path / "longer", max_epochs=3)
    groups = group_runs([seeds[0], longer, *seeds[1:], seeds[0]])
    assert [[log.work_dir for log in group.logs] for group in groups] == [seeds, [longer]]
    assert [group.title for group in groups] == ["LoCo (seed0)", "LoCo (longer)"]
    panels = shown(draw_curves([*seeds, longer]))
    assert [ax.get_title() for ax in panels] == ["LoCo (seed0), 3 seeds", "LoCo (longer)\nepoch 2 of 3"]
    assert len(panels[0].lines) == 12 and len(panels[0].get_legend().get_texts()) == 4


def test_a_run_that_goes_on_is_drawn_as_far_as_it_is(tmp_path):
    """Half-finished runs say so; without the run's record nothing is claimed."""
    drawing = draw_curves([draw_run(tmp_path / "run", epochs=1, max_epochs=100)])
    assert shown(drawing)[0].get_title() == "LoCo\nepoch 1 of 100"
    assert "epoch 1 of 100" in drawing.caption
    bare = write_log(tmp_path / "bare", draw_records(["res5"], [10], 100))
    assert shown(draw_curves([bare]))[0].get_title() == "bare"


def test_many_units_have_a_legend_that_fits(tmp_path):
    """Of sixteen units six at most are named, the bottom and the top one among them."""
    units = [f"block{index}" for index in range(16)]
    ax = shown(draw_curves([write_log(tmp_path / "run", draw_records(units, [10, 20], 100))]))[0]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(ax.lines) == 16 and len(names) <= 6 and names[0] == "block15" and names[-1] == "block0"


def test_files_are_equal_for_equal_logs(runs, tmp_path):
    """PNG and SVG, byte for byte."""
    for draw in (draw_curves, draw_throughput):
        first, second = (save_figure(draw(runs).figure, tmp_path / name) for name in ("one", "two"))
        assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_nothing_to_draw_is_refused(tmp_path):
    """An empty list, a directory that is none, one without log."""
    with pytest.raises(ValueError, match="no training log to draw"):
        draw_curves([])
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        draw_curves([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="has no training log"):
        draw_curves([tmp_path])
