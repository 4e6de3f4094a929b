"""AP bars: heights, deviations and dots are those of the records; unfinished runs, several rows of a method, errors."""

from __future__ import annotations

from statistics import fmean, stdev

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from loco_det.figures.ap_bars import UNFINISHED, draw_ap
from pretrain.figures.style import method_color, save_figure
from pretrain.results.method import foreign_method, shown_method, standard_method
from pretrain.results.store import RecordError
from tests.conftest import assert_one_line_error
from tests.loco_det.detection_runs import identity, write_run

BB, MK = [20.0, 21.0, 25.0], [18.0, 17.5, 21.5]


def bars(axis):
    """``(height, colour, hatch)`` of a panel's bars from left to right."""
    patches = sorted((patch for patch in axis.patches), key=lambda patch: patch.get_x())
    return [(patch.get_height(), patch.get_facecolor(), patch.get_hatch()) for patch in patches]


def test_bars_are_means_and_deviations_of_the_records(tmp_path):
    """Bar heights, error bars and dots equal what was measured, in both panels, in the colours of the methods."""
    measured = {"random": ([5.0, 6.0, 7.5], [4.0, 6.0, 7.0]), "SimCLR": (BB, MK),
                "LoCo": ([30.0, 31.0, 32.5], [25.0, 26.0, 28.0])}
    for method, values in measured.items():
        write_run(tmp_path / method, identity(method.lower()), *values)
    figure = draw_ap([tmp_path]).figure
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(measured)
    for panel, axis in enumerate(figure.axes):
        values = [found[panel] for found in measured.values()]
        for (height, color, hatch), method, found in zip(bars(axis), measured, values, strict=True):
            assert height == pytest.approx(fmean(found)) and hatch is None
            assert color == pytest.approx(to_rgba(method_color(shown_method(identity(method.lower())["method"]))))
        dots = sorted(y for dots in axis.collections if hasattr(dots, "get_sizes") for _, y in dots.get_offsets())
        assert dots == sorted(value for found in values for value in found)
        ends = [segment for lines in axis.collections if not hasattr(lines, "get_sizes") for segment in lines.get_segments()]
        spans = [(fmean(found) - stdev(found), fmean(found) + stdev(found)) for found in values]
        np.testing.assert_allclose([(segment[0][1], segment[-1][1]) for segment in ends], spans)


def test_unfinished_runs_are_hatched_and_named(tmp_path):
    """A run with splits to go says how many it has; one without a value has no bar."""
    write_run(tmp_path / "a", identity("simclr"), BB)
    write_run(tmp_path / "b", identity("loco"), BB[:2], requested=5)
    write_run(tmp_path / "c", identity("gim"), [None], requested=5)
    axis = draw_ap([tmp_path]).figure.axes[0]
    assert [hatch for _, _, hatch in bars(axis)] == [None, UNFINISHED]
    assert [text.get_text() for text in axis.texts] == ["22.0", "(0/5)", "20.5\n(2/5)"]


def test_settings_of_a_method_have_shades_and_data_sets_are_places(tmp_path):
    """Two lengths of pretraining are two bars of one hue, named by what differs, and every data set has its place."""
    write_run(tmp_path / "a", identity("loco", 100), BB)
    write_run(tmp_path / "b", identity("loco", 800), BB)
    write_run(tmp_path / "c", identity("loco", 800), BB, dataset="coco1k")
    drawing = draw_ap([tmp_path])
    axis = drawing.figure.axes[0]
    colors = [color for _, color, _ in bars(axis)]
    assert len(colors) == 3 and colors[0] != colors[1] == colors[2]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["COCO-10K", "COCO-1K"]
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == ["LoCo (epochs=100)", "LoCo (epochs=800)"]


def test_repetitions_of_the_pretraining_share_a_bar(tmp_path):
    """Every split of every seed is a dot of it."""
    for seed in range(2):
        write_run(tmp_path / str(seed), identity("loco", seed=seed), BB)
    axis = draw_ap([tmp_path]).figure.axes[0]
    assert len(bars(axis)) == 1
    assert sum(len(dots.get_offsets()) for dots in axis.collections if hasattr(dots, "get_sizes")) == 6


def test_panels_are_the_tasks_that_there_are(tmp_path):
    """Boxes alone have one panel; of several, all share their scale."""
    write_run(tmp_path / "boxes", identity("loco"), [40.0, 41.0], tasks=["bbox"])
    assert len(draw_ap([tmp_path]).figure.axes) == 1
    write_run(tmp_path / "both", identity("simclr"), [40.0, 41.0], [10.0, 11.0])
    first, second = draw_ap([tmp_path]).figure.axes
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[1] > 41
    assert [len(bars(axis)) for axis in (first, second)] == [2, 1]


METHODS = ("random", foreign_method("supervised"), "simclr", "gim", "loco",
           *(standard_method(dict(type="decoupled", k=k)) for k in (4, 8, 16)),
           *(foreign_method("file", name) for name in ("_own", "own $x_{ of a long name", "own2")))


@pytest.mark.parametrize("methods", [METHODS[:2], METHODS[:4], METHODS])
def test_numbers_do_not_overlap_and_nothing_leaves_the_picture(tmp_path, methods):
    """Where bars are narrow there are no numbers; every method has its place in the legend."""
    for place, method in enumerate(methods):
        for dataset in ("coco10k", "coco1k"):
            write_run(tmp_path / f"{place}_{dataset}", identity(method), [20.0 + place, 25.0], dataset=dataset)
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
    write_run(tmp_path, identity("loco"), BB, dataset="cityscapes", official=[1.0, 2.0, 3.0])
    drawing = draw_ap([tmp_path])
    assert [height for axis in drawing.figure.axes for height, _, _ in bars(axis)] == [22.0, 22.0, 2.0]


def test_nothing_to_draw(tmp_path, run_tool):
    """A folder without results says what to run."""
    with pytest.raises(RecordError, match=r"tools/train_det\.py"):
        draw_ap([tmp_path])
    assert_one_line_error(run_tool("visualize", "ap", tmp_path), "tools/train_det.py")
