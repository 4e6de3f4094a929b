"""Figures of analyses: what is averaged and told apart, values that are drawn, work directories, equal bytes, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pretrain.figures.analyses import FLOOR, draw_kept, draw_probes, draw_spectrum
from pretrain.figures.style import method_color, save_figure
from pretrain.methods import method_of_record, named_method

NAMES = ["res2.1", "res2.2", "res3.1", "res3.2"]
UNITS = ["block1", "res2", "res3"]


def origin(seed, **record):
    """An encoder's origin as readouts record it; ``record`` is what it was pretrained with."""
    if not record:
        return dict(file="random", sha256=None, encoder=dict(type="resnet18"), seed=seed, meta={})
    meta = dict(record, seed=seed, epoch=3, settings=dict(batch_size=256), config_sha256=f"of seed {seed}")
    return dict(file="epoch_3.pth", sha256=f"{seed}", encoder=dict(type="resnet18"), seed=None, meta=meta)


def write(folder, what, name, origin, **content):
    """Writes an analysis as tools/analyze.py does, and returns the record."""
    data = dict(source="cifar10", root="data", train_images=100, fingerprint="f", limit=None)
    checkpoint = folder / name / "epoch_3.pth"
    record = dict(kind=f"analysis_{what}", method="told by the encoder", checkpoint=str(checkpoint), encoder=origin,
                  data=data, seed=0, image_size=32, **content)
    file = checkpoint.with_suffix(".readout") / f"analysis_{what}_cifar10.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(record))
    return record


def write_probes(folder, name, accuracies, seed=0, ends=(), **record):
    blocks = [dict(block=i, name=block, stage=block[:4], end_of_unit=block in ends, top1=value, train_top1=99.0)
              for i, (block, value) in enumerate(zip(NAMES, accuracies, strict=True))]
    write(folder, "probes", name, origin(seed, **record), protocol=dict(name="adam"), blocks=blocks)


def assert_equal_bytes(draw, tmp_path):
    files = [save_figure(draw().figure, tmp_path / name) for name in "ab"]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_probes_average_over_seeds_only(tmp_path):
    """Three seeds are a mean and a band of their sample deviation; another rule and random weights have their own lines."""
    accuracies = np.random.default_rng(0).uniform(20, 60, (3, 4))
    for seed, values in enumerate(accuracies):
        write_probes(tmp_path, f"loco_{seed}", values.tolist(), seed, ends=["res2.2", "res3.2"], rule=dict(type="loco"))
    write_probes(tmp_path, "simclr", [10, 20, 30, 40], ends=["res3.2"], rule="simclr")
    write_probes(tmp_path, "untrained", [9, 8, 7, 6])
    drawing = draw_probes([tmp_path])
    lines = {line["method"]: line for line in drawing.numbers["lines"]}
    assert list(lines) == ["LoCo", "SimCLR", "random"]
    np.testing.assert_allclose(lines["LoCo"]["top1"], accuracies.mean(axis=0))
    np.testing.assert_allclose(lines["LoCo"]["std"], accuracies.std(axis=0, ddof=1))
    assert lines["SimCLR"]["std"] == [None] * 4 and lines["SimCLR"]["runs"] == 1
    [axis] = drawing.figure.axes
    drawn = {line.get_label(): line for line in axis.lines}
    np.testing.assert_allclose(drawn["LoCo"].get_ydata(), accuracies.mean(axis=0))
    assert drawn["LoCo"].get_markevery() == [1, 3] and drawn["random"].get_markevery() == []
    assert drawn["LoCo"].get_color() == method_color(named_method("loco"))
    [band] = axis.collections
    np.testing.assert_allclose(band.get_paths()[0].get_extents().y1, (accuracies.mean(0) + accuracies.std(0, ddof=1)).max())
    assert [label.get_text() for label in axis.get_xticklabels()] == NAMES
    assert_equal_bytes(lambda: draw_probes([tmp_path]), tmp_path / "figures")


def test_runs_that_differ_in_more_than_seeds_are_told_apart(tmp_path):
    """Two pretrainings of one rule that were not set up alike are two lines, called by their folders."""
    write_probes(tmp_path, "short", [1, 2, 3, 4], rule="gim", max_epochs=3)
    write_probes(tmp_path, "long", [2, 3, 4, 5], rule="gim", max_epochs=9)
    lines = draw_probes([tmp_path / "short", tmp_path / "long"]).numbers["lines"]
    assert [(line["method"], line["top1"][0]) for line in lines] == [("GIM (short)", 1), ("GIM (long)", 2)]


def test_spectra_are_relative_and_cut(tmp_path):
    """Values are divided by the largest and cut at the floor; ranks are averaged over seeds; encoders may lack a stage."""
    def point(name, values, rank):
        return dict(name=name, block=1, features=len(values), singular_values=values, effective_rank=rank,
                    participation_ratio=1.0)

    subsampled = dict(rule=dict(type="decoupled", k=4), settings=dict(subsampling=dict(threshold=0.0)))
    for seed, rank in enumerate([2.0, 3.0]):
        write(tmp_path, "spectrum", f"k4_{seed}", origin(seed, rule=dict(type="decoupled", k=4)), images=50,
              points=[point("res2", [4.0, 2.0, 0.0], rank), point("res3", [2.0, 1.0], 1.5)])
    meta = dict(origin(0, rule="x")["meta"], **subsampled)
    write(tmp_path, "spectrum", "sub", dict(origin(0, rule="x"), meta=meta), images=50,
          points=[point("res2", [1, 0.1], 5.0)])
    drawing = draw_spectrum([tmp_path])
    ranks = drawing.numbers["points"]
    assert list(ranks) == ["res2", "res3"]
    labels = ["decoupled, K = 4", "decoupled, K = 4, T = 0"]
    assert [rank["method"] for rank in ranks["res2"]] == labels
    assert ranks["res2"][0]["effective_rank"] == 2.5 and ranks["res2"][0]["std"] == pytest.approx(0.5**0.5)
    assert ranks["res3"][1]["effective_rank"] is None
    first, second = drawing.figure.axes
    drawn = [line.get_ydata().tolist() for line in first.lines]
    assert drawn == [[1, 0.5, FLOOR], [1, 0.5, FLOOR], [1, 0.1]]
    assert [line.get_linestyle() for line in first.lines] == ["-", "-", "--"] and len(second.lines) == 2
    assert first.get_yscale() == "log" and first.get_ylim()[0] < FLOOR
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["2.5 ± 0.7", "5.0"]
    assert_equal_bytes(lambda: draw_spectrum([tmp_path]), tmp_path / "figures")


def kept_values(seed):
    """``(units, signs, times)`` shares."""
    return np.random.default_rng(seed).uniform(0, 1, (len(UNITS), 2, 5))


def write_log(work_dir, values, threshold=0.3):
    """A work directory of a pretraining in epochs of two logged iterations."""
    lines = []
    for step in range(values.shape[2]):
        kept = {f"kept_{sign}_{unit}": values[i, j, step]
                for i, unit in enumerate(UNITS) for j, sign in enumerate(("positive", "negative"))}
        kept = {} if threshold is None else kept
        lines.append(json.dumps(dict(iter=step + 1, epoch=step // 2 + 1, loss=1.0, **kept)))
    file = work_dir / "20260101_000000/vis_data/scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines))
    model = dict(rule=dict(type="decoupled", k=8), subsampling=dict(threshold=threshold))
    config = dict(model=model, train_cfg=dict(max_epochs=3), train_dataloader={})
    (work_dir / "run.json").write_text(json.dumps(dict(config=config)))


def write_kept(folder, values, epochs):
    rule = dict(rule=dict(type="decoupled", k=8))
    meta = dict(origin(0, **rule)["meta"], settings=dict(subsampling=dict(threshold=0.3)))
    shares = {f"kept_{sign}": {unit: values[i, j].tolist() for i, unit in enumerate(UNITS)}
              for j, sign in enumerate(("positive", "negative"))}
    shares["kept_negative"]["res3"][0] = None  # the unit was not trained then
    write(folder, "kept", "sub", dict(origin(0, **rule), meta=meta), units=UNITS, iterations=list(range(1, 6)),
          epochs=epochs, last_epoch={}, **shares)


def test_kept_pairs_of_logs_and_of_analyses_are_drawn_alike(tmp_path):
    """A log and its analysis give the same lines in percent, but for values that the analysis says there are none of."""
    values, epochs = kept_values(0), [0.5, 1.0, 1.5, 2.0, 2.5]
    write_log(tmp_path / "run", values)
    write_kept(tmp_path / "analysed", values, epochs)
    drawings = [draw_kept([tmp_path / name]) for name in ("run", "analysed")]
    for drawing in drawings:
        assert drawing.numbers["runs"][0]["method"] == "decoupled, K = 8, T = 0.3"
        for j, (axis, sign) in enumerate(zip(drawing.figure.axes, ("positive", "negative"), strict=True)):
            for i, line in enumerate(axis.lines):
                known = slice(1 if drawing is drawings[1] and (i, j) == (2, 1) else 0, None)
                np.testing.assert_allclose(line.get_ydata(), 100 * values[i, j][known])
                np.testing.assert_allclose(line.get_xdata(), epochs[known])
                told = drawing.numbers["runs"][0]["units"][UNITS[i]][sign]
                assert told == {"epoch": line.get_xdata().tolist(), "percent": line.get_ydata().tolist()}
        names = [text.get_text() for text in drawing.figure.axes[1].get_legend().get_texts()]
        assert names == UNITS[::-1]
    top = method_color(method_of_record(dict(rule=dict(type="decoupled", k=8))))
    assert drawings[0].figure.axes[0].lines[-1].get_color() == pytest.approx(to_rgb(top))
    assert_equal_bytes(lambda: draw_kept([tmp_path / "run", tmp_path / "analysed"]), tmp_path / "figures")


def test_lines_of_one_rule_are_told_apart(tmp_path):
    """Twelve pretrainings of one rule that were set up differently, in folders of awkward names: no two look alike."""
    for index in range(12):
        write_probes(tmp_path, f"_a $x_{{$ {'long ' * 12}{index}", [1, 2, 3, 4 + index], ends=["res3.2"], rule="gim",
                     max_epochs=index)
    drawing = draw_probes([tmp_path])
    lines = drawing.figure.axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
    assert len(drawing.figure.legends[0].get_texts()) == 12
    save_figure(drawing.figure, tmp_path / "probes")
    box = drawing.figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawing.figure.bbox.x1 and box.y1 <= drawing.figure.bbox.y1
    assert drawing.figure.axes[0].get_window_extent().height > drawing.figure.dpi


def test_kept_pairs_are_found_below_folders(tmp_path):
    """Logs and analyses below one folder are drawn; an analysis of a drawn run and a run on all pairs are left out."""
    write_log(tmp_path / "a", kept_values(0))
    write_log(tmp_path / "plain", kept_values(1), threshold=None)
    write_kept(tmp_path / "analysed", kept_values(2), [0.5, 1.0, 1.5, 2.0, 2.5])
    record = next((tmp_path / "analysed").rglob("analysis_kept*.json"))
    own = json.loads(record.read_text()) | dict(checkpoint=str(tmp_path / "a/epoch_3.pth"))
    (tmp_path / "a/epoch_3.readout").mkdir()
    (tmp_path / "a/epoch_3.readout/analysis_kept.json").write_text(json.dumps(own))
    drawing = draw_kept([tmp_path])
    shares = [run["units"]["res2"]["positive"]["percent"] for run in drawing.numbers["runs"]]
    np.testing.assert_allclose(shares, [100 * kept_values(seed)[1, 0] for seed in (0, 2)])
    assert all(line.get_linestyle() == "--" for axis in drawing.figure.axes for line in axis.lines)
    assert all(tick == round(tick) for tick in drawing.figure.axes[0].get_xticks())


def test_bad_input(tmp_path):
    """Nothing to draw says what to run, and a pretraining on all pairs is not drawn as if it had kept none."""
    for what, draw in (("probes", draw_probes), ("spectrum", draw_spectrum), ("kept", draw_kept)):
        with pytest.raises(ValueError, match=f"no results of tools/analyze.py --what {what}"):
            draw([tmp_path])
        with pytest.raises(ValueError, match="missing does not exist"):
            draw([tmp_path / "missing"])
    write_log(tmp_path / "plain", kept_values(0), threshold=None)
    with pytest.raises(ValueError, match="plain logged no kept pairs: it trained on all of them"):
        draw_kept([tmp_path / "plain"])
