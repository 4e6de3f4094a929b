"""Figures of analyses: what is averaged and what is not, values that are drawn, work directories, equal bytes, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.figures.analyses import FLOOR, draw_probes, draw_spectrum
from pretrain.figures.style import METHOD_COLORS, save_figure
from pretrain.results.method import random_identity, standard_method
from pretrain.results.store import ANALYSIS, measurement, new_record, write_record

NAMES = ["res2.1", "res2.2", "res3.1", "res3.2"]


def identity(seed=0, rule=None, objective=None, **setting):
    """That of a pretraining by a rule, or of random weights without one."""
    if rule is None:
        return random_identity("resnet18", seed)
    return dict(method=standard_method(rule, objective), repetition=dict(seed=seed),
                setting=dict(encoder=dict(type="resnet18"), epochs=3, batch_size=256) | setting)


def write(folder, what, name, identity, rows, details, **protocol):
    """Writes an analysis of ``<name>/epoch_3.pth`` as tools/analyze.py does."""
    record = new_record(ANALYSIS, identity, {"name": what, **protocol}, rows, details=details)
    write_record(folder / name / "epoch_3.eval" / f"analysis_{what}_cifar10.json", record)


def write_probes(folder, name, accuracies, seed=0, ends=(), protocol=None, **options):
    blocks = [dict(block=i, name=block, stage=block[:4], end_of_unit=block in ends) for i, block in enumerate(NAMES)]
    rows = [measurement("cifar10", "probes", metric, value, stage=block)
            for block, top1 in zip(NAMES, accuracies, strict=True)
            for metric, value in (("top1", top1), ("train_top1", 99.0))]
    write(folder, "probes", name, identity(seed, **options), rows, dict(blocks=blocks), **(protocol or {}))


def test_probes_average_over_seeds_only(tmp_path):
    """Three seeds are a mean and a band of their sample deviation; another rule and random weights have their own lines."""
    accuracies = np.random.default_rng(0).uniform(20, 60, (3, 4))
    for seed, values in enumerate(accuracies):
        write_probes(tmp_path, f"loco_{seed}", values.tolist(), seed, ends=["res2.2", "res3.2"], rule="loco")
    write_probes(tmp_path, "simclr", [10, 20, 30, 40], ends=["res3.2"], rule="simclr")
    write_probes(tmp_path, "untrained", [9, 8, 7, 6])
    drawing = draw_probes([tmp_path])
    [axis] = drawing.figure.axes
    drawn = {line.get_label(): line for line in axis.lines}
    assert list(drawn) == ["LoCo", "SimCLR", "random"]
    np.testing.assert_allclose(drawn["LoCo"].get_ydata(), accuracies.mean(axis=0))
    assert drawn["LoCo"].get_markevery() == [1, 3] and drawn["random"].get_markevery() == []
    assert drawn["LoCo"].get_color() == METHOD_COLORS["loco"]
    [band] = axis.collections
    np.testing.assert_allclose(band.get_paths()[0].get_extents().y1, (accuracies.mean(0) + accuracies.std(0, ddof=1)).max())
    assert [label.get_text() for label in axis.get_xticklabels()] == NAMES


def test_what_differs_in_more_than_seeds_has_a_line_of_its_own(tmp_path):
    """Variants of one rule, settings, protocols: each is named by what differs, whatever the folders are called."""
    variants = {
        "a": dict(rule="gim"), "b": dict(rule="gim", epochs=9), "c": dict(rule="gim", protocol=dict(image_size=64)),
        "d": dict(rule=dict(type="loco", window=3)), "e": dict(rule="loco"),
        "f": dict(rule="gim", objective=dict(temperature=0.2)),
    }
    for place, (name, options) in enumerate(variants.items()):
        write_probes(tmp_path, name, [place, 2, 3, 4], **options)
    lines = {line.get_ydata()[0]: line.get_label() for line in draw_probes([tmp_path]).figure.axes[0].lines}
    assert lines == {
        0: "GIM, temperature=0.1 (epochs=3)", 1: "GIM, temperature=0.1 (epochs=9)",
        2: "GIM, temperature=0.1 (image_size=64, epochs=3)", 3: "LoCo, window 3", 4: "LoCo", 5: "GIM, temperature=0.2"}


def test_spectra_are_relative_and_cut(tmp_path):
    """Values are divided by the largest and cut at the floor; ranks are averaged over seeds; encoders may lack a stage."""
    def point(name, values, rank):
        return dict(name=name, block=1, features=len(values), singular_values=values, effective_rank=rank)

    def write_spectrum(name, seed, points, **options):
        rows = [measurement("cifar10", "spectrum", "effective_rank", each["effective_rank"], stage=each["name"])
                for each in points]
        write(tmp_path, "spectrum", name, identity(seed, **options), rows, dict(points=points, images=50))

    k4 = dict(type="decoupled", k=4)
    for seed, rank in enumerate([2.0, 3.0]):
        write_spectrum(f"k4_{seed}", seed, [point("res2", [4.0, 2.0, 0.0], rank), point("res3", [2.0, 1.0], 1.5)], rule=k4)
    write_spectrum("sub", 0, [point("res2", [1, 0.1], 5.0)], rule=k4, objective=dict(threshold=0.0))
    drawing = draw_spectrum([tmp_path])
    first, second = drawing.figure.axes
    drawn = [line.get_ydata().tolist() for line in first.lines]
    assert drawn == [[1, 0.5, FLOOR], [1, 0.5, FLOOR], [1, 0.1]]
    assert [line.get_linestyle() for line in first.lines] == ["-", "-", "--"] and len(second.lines) == 2
    assert first.get_yscale() == "log" and first.get_ylim()[0] < FLOOR
    assert [axis.get_title() for axis in (first, second)] == ["res2", "res3"]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["2.5 ± 0.7", "5.0"]


def test_lines_of_one_rule_look_different(tmp_path):
    """Twelve pretrainings of one rule that were set up differently, in folders of awkward names: no two look alike."""
    for index in range(12):
        write_probes(tmp_path, f"_a $x_{{$ {'long ' * 12}{index}", [1, 2, 3, 4 + index], ends=["res3.2"], rule="gim",
                     epochs=index)
    drawing = draw_probes([tmp_path])
    lines = drawing.figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
    assert len(drawing.figure.legends[0].get_texts()) == 12
    save_figure(drawing.figure, tmp_path / "probes")
    box = drawing.figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawing.figure.bbox.x1 and box.y1 <= drawing.figure.bbox.y1
    assert drawing.figure.axes[0].get_window_extent().height > drawing.figure.dpi


def test_bad_input(tmp_path):
    """Nothing to draw says what to run; a damaged record is named."""
    for what, draw in (("probes", draw_probes), ("spectrum", draw_spectrum)):
        with pytest.raises(ValueError, match=f"tools/analyze.py {what} CHECKPOINT"):
            draw([tmp_path])
        with pytest.raises(ValueError, match="missing"):
            draw([tmp_path / "missing"])
