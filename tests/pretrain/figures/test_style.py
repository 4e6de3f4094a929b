"""What all figures share: equal bytes, one colour per method, legends and labels that find room."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from PIL import Image

from pretrain.figures.style import (
    COLUMN_WIDTH,
    METHOD_COLORS,
    OTHER_COLORS,
    PNG_DPI,
    TEXT_WIDTH,
    class_color,
    class_marker,
    figure_style,
    legend_height,
    line_styles,
    method_color,
    new_figure,
    outside_legend,
    save_figure,
    shades,
    titles_with_paths,
)
from pretrain.results.method import Method, describe_method, foreign_method, shown_method, standard_method
from tests.conftest import ROOT


def draw(stem):
    with figure_style():
        figure, axes = new_figure(2, 1)
        for ax in axes:
            ax.plot([0, 1], [1, 0], label="a line")
            ax.bar([0.5], [0.5], hatch="////")
            ax.legend()
    return save_figure(figure, stem)


def test_equal_figures_are_equal_files(tmp_path):
    """PNG of a column's width and SVG, made again: no dates, no random ids, and nothing of the file's name."""
    first, second = draw(tmp_path / "a" / "one"), draw(tmp_path / "two")
    assert [file.name for file in first] == ["one.png", "one.svg"]
    for file, again in zip(first, second, strict=True):
        assert file.read_bytes() == again.read_bytes()
    assert Image.open(first[0]).size[0] == round(COLUMN_WIDTH * PNG_DPI)


def test_the_style_stays_within_its_block():
    """Drawing changes nothing for others who use matplotlib in this process."""
    code = ("import matplotlib; before = dict(matplotlib.rcParams)\n"
            "from pretrain.figures.style import *\n"
            "with figure_style(): new_figure()\n"
            "assert before == dict(matplotlib.rcParams)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def color(*method):
    return method_color(shown_method(standard_method(*method)))


def test_a_method_has_one_color():
    """That of its rule, whatever else was done; other methods by what they are, whatever they are called."""
    for rule in ("simclr", "gim", "loco"):
        assert color(rule) == METHOD_COLORS[rule]
    assert color(dict(type="loco", window=3), dict(threshold=0.0)) == METHOD_COLORS["loco"]
    assert color(dict(type="decoupled", k=8)) == METHOD_COLORS["decoupled8"]
    assert color(dict(type="decoupled", k=1)) == METHOD_COLORS["simclr"]
    for source in ("random", "supervised"):
        assert method_color(shown_method(foreign_method(source))) == METHOD_COLORS[source]
    stages = {"res2": (0, 4), "res3": (4, 16)}
    custom = [shown_method(describe_method([(0, 4), (2, 16)], stages=stages)) for _ in range(2)]
    assert method_color(custom[0]) == method_color(custom[1]) in OTHER_COLORS
    assert method_color(shown_method(foreign_method("file", "loco"))) in OTHER_COLORS


def test_shades_run_from_light_to_full():
    """The last one is the colour itself; a single one is the colour."""
    for base in METHOD_COLORS.values():
        made = np.array(shades(base, 16))
        np.testing.assert_allclose(made[-1], to_rgb(base))
        np.testing.assert_allclose(shades(base, 1), [to_rgb(base)])
        assert (np.diff(made.sum(axis=1)) < 0).all()


def test_lines_of_one_figure_differ():
    """Lines of one colour get marks and shades, subsampled ones dashes; the rest stays plain."""
    methods = [Method("a", "GIM (a)", "gim"), Method("a", "GIM (b)", "gim"),
               Method("b", "GIM, T = 0", "gim", subsampled=True), Method("c", "LoCo", "loco"),
               *(Method(f"own{index}", "own", "own") for index in range(12))]
    styles = line_styles(methods)
    assert len({(to_rgb(style["color"]), style["linestyle"], style["marker"]) for style in styles}) == len(methods)
    assert styles[2]["linestyle"] == "--" and styles[3] == dict(color=METHOD_COLORS["loco"], linestyle="-", marker=None)


def test_classes_differ():
    """A hundred classes differ in colour or marker."""
    assert len({(class_color(index), class_marker(index)) for index in range(100)}) == 100


def test_equal_titles_name_their_paths():
    """By the last two parts; others stay as they are."""
    assert titles_with_paths(["LoCo", "GIM", "LoCo"], ["r/x/epoch_3.pth", "y", "r/x/epoch_5.pth"]) == [
        "LoCo\nx/epoch_3.pth", "GIM", "LoCo\nx/epoch_5.pth"]


@pytest.mark.parametrize("width", [COLUMN_WIDTH, TEXT_WIDTH])
@pytest.mark.parametrize("label", ["_LoCo", f"LoCo $x_{{, T = 0.3 on negative ({'long' * 20})"])
def test_legends_stay_in_the_picture(width, label):
    """Many labels and long ones, whatever they contain, in as much height as was asked for."""
    labels = [f"{label} {index}" for index in range(12)]
    with figure_style():
        figure, (ax,) = new_figure(width=width, height=1.5 + legend_height(labels, width))
        legend = outside_legend(figure, [Line2D([], []) for _ in labels], labels)
        figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1
    assert ax.get_window_extent().height > 0.6 * figure.dpi and len(legend.get_texts()) == 12
