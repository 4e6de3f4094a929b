"""Training curves: what is drawn is what was logged."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pretrain.figures.curves import draw_curves, group_runs
from pretrain.figures.style import METHOD_COLORS, figure_style
from pretrain.objectives import OBJECTIVES, Objective
from pretrain.results.method import standard_method
from pretrain.results.training_log import read_training_log
from tests.pretrain.synthetic_logs import UNITS, draw_records, draw_run, write_log


@pytest.fixture
def runs(tmp_path):
    """A run of SimCLR, GIM and LoCo each."""
    return [draw_run(tmp_path / rule, rule) for rule in UNITS]


@OBJECTIVES.register_module()
class ToyLoss(Objective):
    """An objective that somebody else has written."""

    label = "Toy loss"

    def forward(self, projections):
        raise NotImplementedError


def loss(runs):
    return draw_curves(runs)["curves"]


def accuracy(runs):
    return draw_curves(runs)["curves_accuracy"]


def learning_rate(runs):
    return draw_curves(runs)["curves_learning_rate"]


def throughput(runs):
    return draw_curves(runs)["curves_throughput"]


def shown(drawing):
    return [ax for ax in drawing.figure.axes if ax.get_visible()]


def test_lines_and_numbers_are_the_logs(runs):
    """Every unit's line has the log's losses over the epochs done."""
    drawing = loss(runs)
    axes = shown(drawing)
    assert [ax.get_title() for ax in axes] == ["SimCLR", "GIM", "LoCo"]
    assert axes[0].get_ylabel() == "NT-Xent (nats)" and len({(ax.get_xlim(), ax.get_ylim()) for ax in axes}) == 1
    assert all(method in drawing.caption for method in ("SimCLR", "GIM", "LoCo"))
    for work_dir, ax in zip(runs, shown(drawing), strict=True):
        log = read_training_log(work_dir)
        lines = {line.get_label(): line for line in ax.lines}
        for unit in log.units():
            epochs, values = log.series(f"loss_{unit}")
            np.testing.assert_array_equal(lines[unit].get_xydata(), np.column_stack([epochs, values]))


def test_accuracy_is_in_percent(runs):
    """The log has shares."""
    [line] = shown(accuracy(runs[:1]))[0].lines
    assert list(line.get_ydata()) == [100 * value for value in read_training_log(runs[0]).series("accuracy_res5")[1]]


def test_learning_rate_and_throughput_are_the_logs(runs):
    """One line a run, with the log's values."""
    for work_dir, line in zip(runs, shown(throughput(runs))[0].lines, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), read_training_log(work_dir).series("images_per_second")[1])
    [line] = shown(learning_rate(runs[:1]))[0].lines
    np.testing.assert_array_equal(line.get_xydata(), np.transpose(read_training_log(runs[0]).series("lr")))
    assert line.get_color() == METHOD_COLORS["simclr"]


def legend_of(drawing):
    return [text.get_text() for text in drawing.figure.legends[0].get_texts()]


def test_equal_schedules_are_one_line(runs, tmp_path):
    """However many runs follow it; what is another schedule is another line."""
    drawing = learning_rate(runs)
    assert len(shown(drawing)[0].lines) == 1 and legend_of(drawing) == ["SimCLR; GIM; LoCo"]
    longer = draw_run(tmp_path / "longer", "loco", epochs=3, max_epochs=3)
    drawing = learning_rate([*runs, longer])
    assert [len(line.get_xdata()) for line in shown(drawing)[0].lines] == [4, 6]
    assert legend_of(drawing) == ["SimCLR; GIM; LoCo (epochs=2)", "LoCo (epochs=3)"]


@pytest.fixture
def many(tmp_path):
    """Twelve settings of one method and of long and awkward names."""
    data = dict(root=f"_a $x_{{$ <b>ü {'a_long_name_' * 5}")
    return [draw_run(tmp_path / str(index), data=data | dict(part=index)) for index in range(12)]


@pytest.mark.parametrize("draw", (loss, learning_rate, throughput))
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
    drawing = throughput(many)
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in shown(drawing)[0].lines]
    assert len(set(looks)) == 12 == len(legend_of(drawing))


def test_folders_above_stand_for_the_runs_below(runs, tmp_path):
    """All that they hold, each run once."""
    assert [group.logs[0].work_dir for group in group_runs([runs[0], tmp_path])] == [
        runs[0], tmp_path / "gim", tmp_path / "loco"]


def test_what_cannot_be_compared_is_named(tmp_path, runs):
    """Losses of unlike batches and objectives stand on one axis, so the caption warns."""
    assert "compared" not in loss(runs[1:]).caption
    other = draw_run(tmp_path / "other", method=standard_method("loco", dict(threshold=0.0)), batch_size=64)
    assert loss([runs[1], other]).caption.endswith("where runs differ in objective, batch_size.")


def test_an_objective_is_called_by_its_own_name(tmp_path, runs):
    """Alone it is on the axis; beside another one each stands in its panel's title, and nothing is in nats."""
    toy = draw_run(tmp_path / "toy", method=standard_method("loco", dict(type="ToyLoss")))
    drawing = loss([toy])
    assert shown(drawing)[0].get_ylabel() == "Toy loss" and "Toy loss" in drawing.caption
    assert "NT-Xent" not in drawing.caption and "nats" not in drawing.caption
    drawing = loss([runs[0], toy])
    assert shown(drawing)[0].get_ylabel() == "training loss"
    assert [ax.get_title() for ax in shown(drawing)] == ["SimCLR\nNT-Xent (nats)", "LoCo, Toy loss\nToy loss"]


def test_a_figure_for_each_metric_that_was_logged(tmp_path):
    """Named after it, of the runs that logged it; of what nobody logged there is none."""
    spread = [dict(record, spread_res5=0.5) for record in draw_records(["res5"], [5, 10], 12)]
    own = write_log(tmp_path / "own", [{key: value for key, value in record.items() if "accuracy" not in key}
                                       for record in spread])
    drawings = draw_curves([own])
    assert list(drawings) == ["curves", "curves_spread", "curves_learning_rate", "curves_throughput"]
    assert shown(drawings["curves_spread"])[0].get_ylabel() == "spread"
    assert list(shown(drawings["curves_spread"])[0].lines[0].get_ydata()) == [0.5, 0.5]
    drawings = draw_curves([own, draw_run(tmp_path / "loco")])
    assert [ax.get_title() for ax in shown(drawings["curves_accuracy"])] == ["LoCo"]
    assert [ax.get_title() for ax in shown(drawings["curves_spread"])] == ["own"]


def test_the_top_unit_has_the_methods_color(runs):
    """In every panel and figure, lighter ones below."""
    for rule, ax in zip(UNITS, shown(loss(runs)), strict=True):
        np.testing.assert_allclose(ax.lines[-1].get_color(), to_rgb(METHOD_COLORS[rule]))
    assert [line.get_color() for line in shown(throughput(runs))[0].lines] == [METHOD_COLORS[rule] for rule in UNITS]


def test_seeds_share_a_panel_and_other_settings_and_methods_do_not(tmp_path):
    """Runs that differ in their seed alone are one group; others have panels whose titles say what differs."""
    seeds = [draw_run(tmp_path / f"seed{seed}", seed=seed) for seed in range(3)]
    longer = draw_run(tmp_path / "longer", max_epochs=3)
    wider = draw_run(tmp_path / "wider", dict(type="loco", window=3))
    groups = group_runs([seeds[0], longer, *seeds[1:], wider, seeds[0]])
    assert [[log.work_dir for log in group.logs] for group in groups] == [seeds, [longer], [wider]]
    assert [group.title for group in groups] == ["LoCo (epochs=2)", "LoCo (epochs=3)", "LoCo, window 3"]
    panels = shown(loss([*seeds, longer]))
    assert [ax.get_title() for ax in panels] == ["LoCo (epochs=2), 3 seeds", "LoCo (epochs=3)\nepoch 2 of 3"]
    assert len(panels[0].lines) == 12 and len(panels[0].get_legend().get_texts()) == 4


def test_a_run_that_goes_on_is_drawn_as_far_as_it_is(tmp_path):
    """Half-finished runs say so; without the run's record nothing is claimed."""
    drawing = loss([draw_run(tmp_path / "run", epochs=1, max_epochs=100)])
    assert shown(drawing)[0].get_title() == "LoCo\nepoch 1 of 100"
    assert "epoch 1 of 100" in drawing.caption
    bare = write_log(tmp_path / "bare", draw_records(["res5"], [10], 100))
    assert shown(loss([bare]))[0].get_title() == "bare"


def test_many_units_have_a_legend_that_fits(tmp_path):
    """Of sixteen units six at most are named, the bottom and the top one among them."""
    units = [f"block{index}" for index in range(16)]
    ax = shown(loss([write_log(tmp_path / "run", draw_records(units, [10, 20], 100))]))[0]
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(ax.lines) == 16 and len(names) <= 6 and names[0] == "block15" and names[-1] == "block0"


def test_nothing_to_draw_is_refused(tmp_path):
    """A directory that does not exist, and one without a log."""
    with pytest.raises(FileNotFoundError, match="nowhere"):
        loss([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no training log"):
        loss([tmp_path])
