"""What all figures share: equal bytes, one colour a method, fonts that survive a paper's column."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from pretrain.figures.style import (
    COLUMN_WIDTH,
    METHOD_COLORS,
    OTHER_COLORS,
    PNG_DPI,
    STYLE,
    Drawing,
    figure_style,
    line_styles,
    method_color,
    method_dashes,
    new_figure,
    save_drawing,
    save_figure,
    shades,
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
    """PNG and SVG, made again: no dates, no random ids, and nothing of the file's name or the folder."""
    first, second = draw(tmp_path / "a" / "one"), draw(tmp_path / "two")
    assert [file.name for file in first] == ["one.png", "one.svg"]
    for file, again in zip(first, second, strict=True):
        assert file.read_bytes() == again.read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()


def test_size_is_the_papers(tmp_path):
    """A figure of a column's width has a column's width of pixels."""
    width, _ = Image.open(draw(tmp_path / "figure")[0]).size
    assert width == round(COLUMN_WIDTH * PNG_DPI)


def test_text_is_large_enough():
    """No size of the style is below 6.5 points."""
    sizes = [value for key, value in STYLE.items() if key.endswith(("font.size", "titlesize", "labelsize", "fontsize"))]
    assert len(sizes) == 7 and min(sizes) >= 6.5


def test_the_style_stays_within_its_block():
    """Drawing changes nothing for others who use matplotlib in this process."""
    code = ("import matplotlib; before = dict(matplotlib.rcParams)\n"
            "from pretrain.figures.style import *\n"
            "with figure_style(): new_figure()\n"
            "assert before == dict(matplotlib.rcParams)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def color(*method, **options):
    return method_color(shown_method(standard_method(*method, **options)))


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


def linear(color):
    """Linear RGB of sRGB."""
    return np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)])


def luminance(color):
    """Relative luminance, 0 to 1 (WCAG 2.1)."""
    return np.dot([0.2126, 0.7152, 0.0722], linear(color))


# Viénot, Brettel and Mollon (1999): linear RGB as seen without long- and without middle-wave cones
MISSING_CONES = {
    "none": np.eye(3),
    "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # of linear sRGB


def lab(rgb):
    """CIE L*a*b* of linear sRGB under D65; distances below 2 or 3 are hardly seen side by side."""
    f = np.cbrt(XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_differ_for_colour_blind_readers():
    """Every two methods' colours stay far apart for people without one kind of cone."""
    for matrix in MISSING_CONES.values():
        seen = [lab(matrix @ linear(color)) for color in METHOD_COLORS.values()]
        assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 18
        others = [lab(matrix @ linear(color)) for color in OTHER_COLORS]
        assert min(np.linalg.norm(one - other) for one in others for other in seen) > 18


def test_shades_run_from_light_to_full():
    """In order of luminance, the last one the colour itself; a single one is the colour."""
    for color in METHOD_COLORS.values():
        for count in (1, 2, 16):
            made = shades(color, count)
            assert len(made) == count
            np.testing.assert_allclose(made[-1], to_rgb(color))
            assert all(luminance(one) > luminance(other) for one, other in zip(made, made[1:], strict=False))


def test_subsampling_shows_beside_the_plain_rule():
    """Of the same colour, but dashed."""
    plain, subsampled = Method("a", "GIM", "gim"), Method("b", "GIM, T = 0", "gim", subsampled=True)
    assert method_dashes(plain) != method_dashes(subsampled)


def test_lines_of_one_figure_differ():
    """Rules of one colour get marks and shades; all colours that are left for other rules, too; the rest stays plain."""
    methods = [Method("a", "GIM (a)", "gim"), Method("a", "GIM (b)", "gim"),
               Method("b", "GIM, T = 0", "gim", subsampled=True), Method("c", "LoCo", "loco"),
               *(Method(f"own{index}", "own", "own") for index in range(12))]
    styles = line_styles(methods)
    assert len({(to_rgb(style["color"]), style["linestyle"], style["marker"]) for style in styles}) == len(methods)
    assert styles[0]["marker"] != styles[1]["marker"]
    assert styles[2:4] == [dict(color=METHOD_COLORS["gim"], linestyle="--", marker=None),
                           dict(color=METHOD_COLORS["loco"], linestyle="-", marker=None)]


def test_numbers_are_standard_json(tmp_path):
    """What is not finite is null, at any depth."""
    with figure_style():
        figure, _ = new_figure()
    numbers = {"loss": [1.5, float("nan")], "by_unit": {"res5": (float("inf"), None, 2, "x")}}
    files = save_drawing(Drawing(figure, "A caption.", numbers), tmp_path / "drawn")
    assert [file.name for file in files] == ["drawn.png", "drawn.svg", "drawn.json"] and all(map(Path.exists, files))

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(files[2].read_text(), parse_constant=refuse)
    assert content == {"loss": [1.5, None], "by_unit": {"res5": [None, None, 2, "x"]}}
