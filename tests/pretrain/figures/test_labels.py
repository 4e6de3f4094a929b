"""Labels: unique ones, and room for long ones."""

from __future__ import annotations

import pytest
from matplotlib.lines import Line2D

from pretrain.figures.labels import legend_height, outside_legend, unique_labels_by_path, wrapped
from pretrain.figures.style import COLUMN_WIDTH, TEXT_WIDTH, figure_style, new_figure


@pytest.mark.parametrize(("paths", "hints"), [
    (["x/run", "y/run"], ["x", "y"]),
    (["a/epoch_3.pth", "a/epoch_5.pth"], ["epoch_3", "epoch_5"]),
    (["a/epoch_3.pth", "b/epoch_3.pth"], ["a", "b"]),
    (["a/epoch_3.pth", "a/epoch_5.pth", "b/epoch_3.pth"], ["a/epoch_3", "a/epoch_5", "b/epoch_3"]),
    (["x/seed0/run", "x/seed1/run", "y/seed0/run"], ["x/seed0", "x/seed1", "y/seed0"]),
    (["v1.5", "v1.6"], ["v1.5", "v1.6"]),
    (["run", "run/split_0/epoch_1.pth"], ["run", "epoch_1"]),
])
def test_equal_labels_get_hints(paths, hints):
    """By as much of the paths as differs, whatever stands before it; others stay as they are."""
    unique = unique_labels_by_path(["LoCo"] * len(paths) + ["GIM"], [*paths, "x/run"])
    assert unique == [f"LoCo ({hint})" for hint in hints] + ["GIM"]
    assert len(set(unique)) == len(unique)


def test_what_is_given_twice_keeps_its_label():
    """Only the third one differs."""
    assert unique_labels_by_path(["random", "random"], ["random", "random"]) == ["random", "random"]
    assert unique_labels_by_path(["GIM"] * 3, ["a", "a", "b"]) == ["GIM (a)", "GIM (a)", "GIM (b)"]


def test_lines_stay_apart():
    """What is given in lines is wrapped line by line."""
    assert wrapped("one two three\nfour", 0.9, 8) == ["one two", "three", "four"]


@pytest.mark.parametrize("width", [COLUMN_WIDTH, TEXT_WIDTH])
@pytest.mark.parametrize(("count", "label"), [
    (12, "LoCo"), (12, f"LoCo, soft sharing 0.001, T = 0.3 on negative ({'long' * 20})"), (1, "x"),
])
def test_legends_stay_in_the_picture(width, count, label):
    """Many labels and long ones, in as much height as was asked for."""
    labels = [f"{label} {index}" for index in range(count)]
    with figure_style():
        figure, (axis,) = new_figure(width=width, height=1.5 + legend_height(labels, width))
        legend = outside_legend(figure, [Line2D([], []) for _ in labels], labels)
        figure.draw_without_rendering()
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
        assert axis.get_window_extent().height > 0.6 * figure.dpi


def test_legends_show_any_label():
    """An underscore in front hides no line, and dollar signs are no formula."""
    labels = ["_run", "a $x_{$ b", "$\\alpha$"]
    with figure_style():
        figure, _ = new_figure()
        legend = outside_legend(figure, [Line2D([], []) for _ in labels], labels)
        figure.draw_without_rendering()
    assert [text.get_text() for text in legend.get_texts()] == labels
    assert not any(text.get_parse_math() for text in legend.get_texts())
