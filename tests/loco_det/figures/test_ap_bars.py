"""AP bars: heights, deviations and dots are those of results.json; unfinished runs, several rows of a method, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from loco_det.evaluation.results import ResultsError
from loco_det.figures.ap_bars import UNFINISHED, draw_ap
from pretrain.figures.style import method_color, save_figure
from pretrain.methods import named_method
from tests.conftest import assert_one_line_error
from tests.loco_det.detection_runs import make_run, write_runs

BB, MK = [20.0, 21.0, 25.0], [18.0, 17.5, 21.5]


def bars(axis):
    """``(height, colour, hatch)`` of a panel's bars from left to right."""
    patches = sorted((patch for patch in axis.patches), key=lambda patch: patch.get_x())
    return [(patch.get_height(), patch.get_facecolor(), patch.get_hatch()) for patch in patches]


def test_bars_are_means_and_deviations_of_results(tmp_path):
    """Bar heights, error bars and dots equal what results.json holds, in both panels, in the colours of the methods."""
    write_runs(tmp_path, [make_run("simclr", BB, MK), make_run("loco", [30.0, 31.0, 32.5], [25.0, 26.0, 28.0]),
                          make_run("random", [5.0, 6.0, 7.5], [4.0, 6.0, 7.0])])
    drawing = draw_ap([tmp_path])
    records = [json.loads(file.read_text()) for file in tmp_path.rglob("results.json")]
    written = {record["method"]: record for record in records}
    assert [row["method"] for row in drawing.numbers["rows"]] == ["random", "simclr", "loco"]
    for axis, task in zip(drawing.figure.axes, ("bbox", "segm"), strict=True):
        found = bars(axis)
        for (height, color, hatch), row in zip(found, drawing.numbers["rows"], strict=True):
            summary = written[row["method"]]["summary"][task]["AP"]
            assert height == row[task]["mean"] == pytest.approx(summary["mean"])
            assert row[task]["std"] == pytest.approx(summary["std"])
            values = [split[task]["AP"] for split in written[row["method"]]["splits"].values()]
            assert row[task]["values"] == values
            assert color == pytest.approx(to_rgba(method_color(named_method(row["method"])))) and hatch is None
        dots = sorted(y for dots in axis.collections if hasattr(dots, "get_sizes") for _, y in dots.get_offsets())
        assert dots == sorted(value for row in drawing.numbers["rows"] for value in row[task]["values"])
        ends = [segment for lines in axis.collections if not hasattr(lines, "get_sizes") for segment in lines.get_segments()]
        spans = [(row[task]["mean"] - row[task]["std"], row[task]["mean"] + row[task]["std"])
                 for row in drawing.numbers["rows"]]
        np.testing.assert_allclose([(segment[0][1], segment[-1][1]) for segment in ends], spans)


def test_unfinished_runs_are_hatched_and_named(tmp_path):
    """A run with splits to go says how many it has; one without a value has no bar but is told."""
    write_runs(tmp_path, [make_run("simclr", BB), make_run("loco", BB[:2], requested=5),
                          make_run("gim", [None], requested=5)])
    axis = draw_ap([tmp_path]).figure.axes[0]
    assert [hatch for _, _, hatch in bars(axis)] == [None, UNFINISHED]
    assert [text.get_text() for text in axis.texts] == ["22.0", "(1/5)", "20.5\n(2/5)"]


def test_rows_of_a_method_have_shades_and_data_sets_are_groups(tmp_path):
    """Two lengths of pretraining are two bars of one hue, named with their epochs, and every data set has its group."""
    write_runs(tmp_path, [make_run("loco", BB, epochs=100), make_run("loco", BB, epochs=800),
                          make_run("loco", BB, epochs=800, dataset="coco1k")])
    drawing = draw_ap([tmp_path])
    axis = drawing.figure.axes[0]
    colors = [color for _, color, _ in bars(axis)]
    assert len(colors) == 3 and colors[0] != colors[1] == colors[2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["COCO-10K", "COCO-1K"]
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == ["LoCo (100 epochs)", "LoCo (800 epochs)"]


def test_panels_share_their_scale(tmp_path):
    """AP of boxes and of masks can be compared by eye."""
    write_runs(tmp_path, [make_run("loco", [40.0, 41.0], [10.0, 11.0])])
    first, second = draw_ap([tmp_path]).figure.axes
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[1] > 41


METHODS = ("random", "supervised", "simclr", "gim", "loco", "decoupled4", "decoupled8", "decoupled16", "_own",
           "own $x_{ of a long name", "own2")


@pytest.mark.parametrize("methods", [METHODS[:2], METHODS[:4], METHODS])
def test_numbers_do_not_overlap_and_nothing_leaves_the_picture(tmp_path, methods):
    """Where bars are narrow there are no numbers; every bar has its own look, and every method its place in the legend."""
    write_runs(tmp_path, [make_run(method, [20.0 + place, 25.0], dataset=dataset)
                          for place, method in enumerate(methods) for dataset in ("coco10k", "coco1k")])
    figure = draw_ap([tmp_path]).figure
    save_figure(figure, tmp_path / "ap")
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
        assert len(boxes) == (0 if methods is METHODS else 2 * len(methods))
        assert len({color for _, color, _ in bars(axis)}) == len(methods)
        assert axis.get_window_extent().height > 1.2 * figure.dpi
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and len(figure.legends[0].get_texts()) == len(methods)


def test_a_data_sets_own_ap_has_a_panel(tmp_path):
    """Cityscapes' official AP stands beside COCO's."""
    write_runs(tmp_path, [make_run("loco", BB, dataset="cityscapes", official=[1.0, 2.0, 3.0])])
    drawing = draw_ap([tmp_path])
    assert [height for axis in drawing.figure.axes for height, _, _ in bars(axis)] == [22.0, 22.0, 2.0]
    assert drawing.numbers["rows"][0]["official"] == {"mean": 2.0, "std": 1.0, "values": [1.0, 2.0, 3.0]}


def test_equal_bytes(tmp_path):
    """Equal results make equal files."""
    write_runs(tmp_path, [make_run("loco", BB, requested=5), make_run("simclr", BB)])
    files = [save_figure(draw_ap([tmp_path]).figure, tmp_path / name) for name in "ab"]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_nothing_to_draw(tmp_path, run_tool):
    """A folder without results says what to run."""
    with pytest.raises(ResultsError, match="run tools/train_det.py first"):
        draw_ap([tmp_path])
    assert_one_line_error(run_tool("visualize", "ap", tmp_path), "run tools/train_det.py first")
