"""Which results of the second paper's pretrainings are averaged, which are kept apart, and which do not belong there."""

from __future__ import annotations

from statistics import stdev

import pytest

from pretrain.readout.subsampling_report import subsampling_report
from tests.pretrain.readout.subsampled import ADAM, COLUMN, cells, legend, numbers, short, write
from tests.pretrain.readout.written import record_of_config, write_random


def test_end_to_end_is_one_row_whatever_its_rule_and_projector(tmp_path):
    """The rules ``simclr`` and ``decoupled`` with k=1 are one pretraining; so are projectors that differ only where K > 1.

    The convolution of the projector stands at every cut but the last: end to end there is none. Where K = 4 is there with
    and without it, K = 1 is beside both.
    """
    write(tmp_path, 50.0, short(1, seed=0))
    write(tmp_path, 52.0, short(1, seed=1, model__rule="simclr"))
    write(tmp_path, 54.0, short(1, seed=2, model__rule=dict(_delete_=True, type="simclr"), model__decoder__conv_blocks=0))
    (row,) = [row for row in numbers(tmp_path, figure=3) if row["runs"]]
    assert (row["k"], row["method"], row["mean"], row["runs"]) == (1, "SimCLR", 52.0, 3)
    write(tmp_path, 44.0, short(4))
    write(tmp_path, 43.0, short(4, model__decoder__conv_blocks=0))
    lines = cells(tmp_path, figure=4)
    assert [title for title in lines[0][1:] if title.endswith("none")] == ["CIFAR-10 (1): none", "CIFAR-10 (2): none"]
    assert legend(tmp_path, figure=4) == [
        f"- CIFAR-10 (1): {COLUMN}, pretraining: conv_blocks=plain_conv",
        f"- CIFAR-10 (2): {COLUMN}, pretraining: conv_blocks=0, not the paper's settings"]
    assert [line[1::4] for line in lines[2:]] == [["52.0 ± 2.0 (3 runs)"] * 2, ["44.0", "43.0"]]
    write(tmp_path, 30.0, short(1, seed=3, model__decoder__conv_blocks=1))  # which is there at the end, too
    means = {row["column"]: row["mean"] for row in numbers(tmp_path, figure=3) if row["k"] == 1 and row["runs"]}
    assert sorted(means.values()) == [30.0, 52.0, 52.0]
    assert [title for title, value in means.items() if value == 30.0 and "conv_blocks=1" in title]


@pytest.mark.parametrize("change, told", [
    (dict(model__temperature=0.1), ["temperature=0.1", "temperature=0.5"]),
    (dict(optim_wrapper__optimizer__lr=3e-4), ["lr=0.0003", "lr=0.001"]),
    (dict(train_cfg__max_epochs=7), ["5 epochs", "7 epochs"]),
    (dict(model__encoder__width=24), ["width=16", "width=24"]),
    (dict(data_preprocessor__blur=0.5), ["blur=0.0", "blur=0.5"]),
    (dict(model__decoder__norm="hidden"), ["norm=none", "pretraining: "]),
])
def test_other_settings_have_columns_of_their_own(tmp_path, change, told):
    """Schedules, encoders, data, temperatures and projectors are never averaged; titles and notes name what differs."""
    write(tmp_path, 45.0, short(4))
    write(tmp_path, 47.0, short(4, seed=1))
    write(tmp_path, 30.0, short(4, seed=1, **change))
    rows = [row for row in numbers(tmp_path, figure=4) if row["runs"]]
    assert sorted((row["mean"], row["runs"]) for row in rows) == [(30.0, 1), (46.0, 2)]
    titles = [row["column"] for row in rows]
    assert all(any(part in title for title in titles) for part in told)
    departs = not {"train_cfg__max_epochs", "model__encoder__width"} & set(change)
    assert sum("not the paper's settings" in title for title in titles) == departs
    assert len(subsampling_report([tmp_path], figure=4).notes) == departs


def test_other_readouts_have_columns_of_their_own(tmp_path):
    """Kinds, protocols and data sets stand apart, under titles that tell which; a shorter readout is not the paper's."""
    meta = short(4)
    write(tmp_path, 45.0, meta)
    write(tmp_path, 44.0, meta, protocol=ADAM | {"epochs": 20})
    write(tmp_path, 46.0, meta, kind="linear_cached", protocol=dict(name="cached", image_size=32))
    write(tmp_path, 47.0, meta, kind="linear", protocol=dict(name="paper", image_size=32))
    write(tmp_path, 60.0, short(4, data="stl10"), source="stl10")
    rows = {row["column"]: row["mean"] for row in numbers(tmp_path, figure=4) if row["runs"]}
    encoder = "ResNet-18 (stem=stl, width=16), 5 epochs"
    assert rows == {
        f"CIFAR-10 linear, {encoder}": 47.0,
        f"CIFAR-10 linear (cached features), {encoder}": 46.0,
        f"{COLUMN}, epochs=200": 45.0,
        f"{COLUMN}, epochs=20, not the paper's settings": 44.0,
        f"STL-10 linear (Adam), {encoder}": 60.0,
    }
    assert subsampling_report([tmp_path], figure=4).notes == [
        f"{COLUMN}, epochs=20, not the paper's settings: readout epochs=20 (paper: 200)"]


def test_thresholds_have_rows_of_their_own(tmp_path):
    """Two thresholds of one data set, negatives alone, and another divisor are four rows; SimCLR is beside all of them."""
    variants = {"T = 0": {}, "T = 0.2": dict(threshold=0.2), "T = 0 on negatives": dict(on="negatives"),
                "T = 0, mean over kept": dict(average_over="kept")}
    write(tmp_path, 40.0, short(1))
    for number, options in enumerate(variants.values(), start=1):
        options = {f"model__subsampling__{key}": value for key, value in options.items()}
        write(tmp_path, 40.0 + number, short(1, "subsampled", **options))
    found = {row["method"]: (row["mean"], row["delta"]) for row in numbers(tmp_path) if row["k"] == 1}
    assert found == {"SimCLR": (40.0, None), **{f"+ subsampling, {name}": (40.0 + number, float(number))
                                               for number, name in enumerate(variants, start=1)}}
    published = {(row["k"], row["method"]): row["mean"] for row in numbers(tmp_path, paper=True)
                 if row["source"] == "paper" and row["data_set"] == "CIFAR-10"}
    assert (published[1, "+ subsampling, T = 0"], published[1, "+ subsampling, T = 0.2"]) == (91.4, None)


def test_blocks_that_the_paper_does_not_have(tmp_path):
    """Overlap and uneven cuts have rows of their own; cuts into equal runs, and a window without a block below, do not."""
    rules = {"4": dict(type="decoupled", cuts=[2, 4, 6]), "4, window 2": dict(type="decoupled", k=4, window=2),
             "2, cut at 3": dict(type="decoupled", cuts=[3]), "1 (E2E)": dict(type="decoupled", k=1, window=3)}
    for number, rule in enumerate(rules.values()):
        write(tmp_path, 40.0 + number, short(4, model__rule=dict(_delete_=True, **rule)))
    found = {row["cuts"]: row["mean"] for row in numbers(tmp_path, figure=4) if row["runs"]}
    assert found == {cuts: 40.0 + number for number, cuts in enumerate(rules)}


def test_incomplete_runs_are_told_and_left_out(tmp_path):
    """A checkpoint from before its schedule's end is in no mean; alone, its cell says so."""
    write(tmp_path, 45.0, short(4))
    write(tmp_path, 11.0, short(4, seed=1, epoch=3))
    unfinished = write(tmp_path, 12.0, short(8, epoch=2))
    report = subsampling_report([tmp_path])
    assert sum("is of an incomplete pretraining" in line for line in report.warnings) == 2
    told = f"{unfinished} is of an incomplete pretraining, at 2 of 5 epochs: left out of the averages"
    assert told in report.warnings
    accuracies = {line[0]: line[2] for line in cells(tmp_path) if line[1] == "SimCLR"}
    assert accuracies["4"] == "45.0 (+ 1 incomplete run left out)"
    assert accuracies["8"] == "– (incomplete: at 2 of 5 epochs)"


def test_readouts_of_one_pretraining_count_once(tmp_path):
    """Several seeds of the readout are averaged first: the deviation is over pretrainings."""
    for readout_seed, value in enumerate((40.0, 42.0)):
        write(tmp_path, value, short(4), seed=readout_seed)
    write(tmp_path, 44.0, short(4, seed=1))
    (row,) = [row for row in numbers(tmp_path, figure=4) if row["runs"]]
    assert (row["mean"], row["std"], row["runs"]) == (42.5, pytest.approx(stdev([41.0, 44.0])), 2)


def test_a_row_without_baseline_is_told(tmp_path):
    """Subsampled runs without SimCLR at their K have no difference: one line for a column."""
    for k in (4, 8):
        write(tmp_path, 45.0, short(k, "subsampled"))
    write(tmp_path, 44.0, short(4))
    assert subsampling_report([tmp_path], figure=3).warnings == [
        f"no run of SimCLR with K = 8 in the column {COLUMN}: no differences there"]


# What does not belong here


def test_what_is_not_of_this_paper_is_told(tmp_path):
    """GIM, LoCo, sequential training, random encoders and other readouts are left out, with who reports them."""
    write(tmp_path, 45.0, short(4))
    others = {
        "GIM, not decoupled SimCLR (tools/report_linear.py reports it)": [
            write(tmp_path, 40.0, record_of_config("pretrain/gim_resnet18_cifar10_short.py", seed=seed)) for seed in (0, 1)],
        "kNN readouts, which tools/report_linear.py reports": [write(tmp_path, 40.0, short(4), kind="knn")],
        "random encoder without pretraining": [write_random(tmp_path / "random.json", 20.0, "resnet18")],
        "one after the other": [write(tmp_path, 40.0, short(4, seed=1) | {"epochs_per_unit": 2})],
    }
    report = subsampling_report([tmp_path])
    assert len(report.warnings) == len(others)
    for reason, files in others.items():
        (line,) = [line for line in report.warnings if reason in line]
        assert line.startswith(f"{files[0]}{' and 1 more' if len(files) > 1 else ''}: ")
    with pytest.raises(ValueError, match="no linear readout of decoupled SimCLR among the results: .* GIM, not decoupled"):
        subsampling_report([file for files in others.values() for file in files])


def test_the_projects_own_simclr_is_told_apart(tmp_path):
    """SimCLR of another recipe is K = 1, in a column that is named as not the paper's, with a note on what differs.

    Pretrainings from before settings were recorded are apart from both.
    """
    write(tmp_path, 50.0, short(1))
    write(tmp_path, 48.0, record_of_config("pretrain/simclr_resnet18_cifar10_short.py"))
    old = record_of_config("pretrain/simclr_resnet18_cifar10_short.py", seed=1)
    del old["settings"]
    write(tmp_path, 47.0, old)
    rows = {row["column"]: row for row in numbers(tmp_path) if row["runs"]}
    assert sorted((row["k"], row["mean"]) for row in rows.values()) == [(1, 47.0), (1, 48.0), (1, 50.0)]
    (note,) = subsampling_report([tmp_path]).notes
    assert "not the paper's settings" in note and "optim_wrapper.optimizer.type=AdamW (paper: Adam)" in note
    (unrecorded,) = [row for title, row in rows.items() if "settings not recorded" in title]
    assert (unrecorded["mean"], unrecorded["max_macs"], unrecorded["memory_bytes"]) == (47.0, None, None)


def test_unusable_results(tmp_path):
    """An empty folder, a damaged result, the same result twice: named, with the mend."""
    with pytest.raises(ValueError, match="no readout results below .*run tools/linear_eval.py"):
        subsampling_report([tmp_path])
    file = write(tmp_path, 45.0, short(4))
    (tmp_path / "copy.json").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="two results of the same readout: .*; leave one out"):
        subsampling_report([tmp_path])
    file.write_text(file.read_text().replace('"top1": 45.0', '"top1": 450.0'))
    with pytest.raises(ValueError, match=f"{file} is a damaged readout result .*top1 is 450.0"):
        subsampling_report([tmp_path])
