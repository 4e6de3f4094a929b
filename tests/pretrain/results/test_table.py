"""The table engine: what shares a row or an average, differences, and the papers' layouts and numbers."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from pathlib import Path

import pytest
from mmengine.config import Config

from pretrain.learner import LocalContrastiveLearner
from pretrain.results.formats import cell_text, headings, numbers, table_text, tidy_text
from pretrain.results.method import describe_method, epochs_per_unit, foreign_method, method_of_learner, standard_method
from pretrain.results.store import PRETRAINING, new_record, write_record
from pretrain.results.table import Cell, Table, paper_layouts, results_table
from tests.conftest import ROOT, assert_one_line_error
from tests.pretrain.results.made import PROTOCOL, identity, write_detection, write_evaluation

NTXENT = dict(type="NTXent", temperature=0.1)


def rows_of(table: Table) -> dict[tuple[str, ...], list[str]]:
    """Texts of the cells by the labels of their row."""
    assert len({row.labels for row in table.rows}) == len(table.rows), "two rows have the same labels"
    return {row.labels: [cell_text(row.cells.get(column), column.metric) for column in table.columns] for row in table.rows}


def test_mean_deviation_difference_and_what_is_missing(tmp_path):
    """Over splits; boxes alone are a result; a row that is not finished says so, and is not compared over other splits."""
    write_detection(tmp_path / "a", identity("simclr"), {"bbox_AP": [20.0, 22.0], "segm_AP": [18.0, 19.0]})
    write_detection(tmp_path / "b", identity("loco"), {"bbox_AP": [23.0, 24.0]})
    write_detection(tmp_path / "c", identity("gim"), {"bbox_AP": [15.0], "segm_AP": [None]}, num_splits=2)
    write_detection(tmp_path / "d", identity("random"), {"bbox_AP": [5.0, 6.0], "segm_AP": [4.0, 4.0]},
                    protocol={**PROTOCOL, "frozen_stages": 0})
    table, warnings = results_table([tmp_path])
    assert headings(table) == ["Method", "COCO-10K AP^bb", "COCO-10K AP^mk"]
    assert {labels[0]: cells for labels, cells in rows_of(table).items()} == {
        "random": ["5.5 ± 0.7", "4.0 ± 0.0"], "SimCLR": ["21.0 ± 1.4", "18.5 ± 0.7"],
        "GIM": ["15.0 (1/2)", "– (0/2)"], "LoCo": ["23.5 ± 0.7 (+2.5)", "–"],
    }
    assert warnings == [] and any("GIM on COCO-10K" in note and "of 2 repetitions" in note for note in table.notes)


def test_numbers_are_unrounded(tmp_path):
    """Mean, sample deviation and difference as Python's statistics has them."""
    base, ours = [20.123456, 22.654321, 21.5], [23.1, 24.7, 22.9]
    write_detection(tmp_path / "a", identity("simclr"), {"bbox_AP": base})
    write_detection(tmp_path / "b", identity("loco"), {"bbox_AP": ours})
    loco = next(row for row in numbers(results_table([tmp_path])[0]) if row["method"] == "LoCo")
    assert loco["mean"] == pytest.approx(statistics.fmean(ours), rel=1e-15)
    assert loco["std"] == pytest.approx(statistics.stdev(ours), rel=1e-15)
    assert loco["delta"] == pytest.approx(statistics.fmean(ours) - statistics.fmean(base), rel=1e-12)
    assert (loco["n"], loco["of"]) == (3, 3)


VARIANTS = {
    "window": (dict(type="loco", window=2), dict(type="loco", window=3)),
    "res2 loss": ("loco", dict(type="loco", res2_loss=False)),
    "K": (dict(type="decoupled", k=4), dict(type="decoupled", k=8)),
    "head": (describe_method("simclr"), describe_method("simclr", head=dict(conv_blocks=1))),
    "T": (describe_method("gim"), describe_method("gim", dict(NTXENT, threshold=0.0))),
    "what T drops": (describe_method("gim", dict(NTXENT, threshold=0.0, on="positives")),
                     describe_method("gim", dict(NTXENT, threshold=0.0, on="negatives"))),
    "temperature": (describe_method("gim", dict(NTXENT, temperature=0.2)), describe_method("gim", NTXENT)),
    "soft sharing": (describe_method("loco", soft_sharing=dict(coefficient=1e-3)), describe_method("loco")),
    "order of training": (describe_method("gim", epochs_per_unit=100), describe_method("gim")),
    "name": (describe_method("gim", name="mine"), describe_method("gim")),
    "files from elsewhere": (foreign_method("file", "moco"), foreign_method("file", "dino")),
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_methods_that_differ_in_anything_never_share_a_row(tmp_path, kind):
    """Each has its own row and label, and no average goes over both."""
    for place, method in enumerate(VARIANTS[kind]):
        write_detection(tmp_path / f"det{place}", identity(method), {"bbox_AP": [20.0 + place, 20.0 + place]})
        write_evaluation(tmp_path / f"{place}.json", identity(method), 60.0 + place)
    found = rows_of(results_table([tmp_path])[0])
    assert len({labels[0] for labels in found}) == 2
    assert sorted(cells[0].split(" (")[0] for cells in found.values()) == ["20.0 ± 0.0", "21.0 ± 0.0"]
    assert sorted(cells[-1].split(" (")[0] for cells in found.values()) == ["60.0", "61.0"]


@pytest.mark.parametrize(("name", "other"), [
    ("epochs", 800), ("batch_size", 256), ("precision", "float32"), ("image_size", 96), ("images", 1000),
    ("data", {"source": "folder", "root": "coco"}), ("encoder", {"type": "resnet18"}), ("views", {"blur": 0.0}),
    ("optimizer", {"optimizer": {"type": "SGD"}}), ("epochs_done", 50),
])
def test_settings_that_differ_are_never_averaged(tmp_path, name, other):
    """Of one method they have rows of their own, which say what differs."""
    for place, setting in enumerate(({}, {name: other})):
        write_evaluation(tmp_path / f"{place}.json", identity("loco", seed=place, **setting), 60.0 + place)
    assert sorted(cells[0] for cells in rows_of(results_table([tmp_path])[0]).values()) == ["60.0", "61.0"]


def test_a_setting_other_than_the_baselines_is_noted(tmp_path):
    """They are compared in one column all the same, also with hyper-parameters of their own."""
    write_evaluation(tmp_path / "a.json", identity("simclr"), 60.0)
    write_evaluation(tmp_path / "b.json", identity("loco", batch_size=1024), 61.0)
    table, _ = results_table([tmp_path])
    assert [cells[0] for cells in rows_of(table).values()] == ["60.0", "61.0 (+1.0)"]
    assert any("LoCo" in note and "batch_size 1024 (SimCLR: 4096)" in note for note in table.notes)


def test_the_baseline_is_the_nearest_of_its_encoder_and_epochs(tmp_path):
    """Never one of other epochs or another encoder; of several the one with the fewest differences."""
    write_evaluation(tmp_path / "a.json", identity("simclr", epochs=800), 70.0)
    write_evaluation(tmp_path / "b.json", identity("simclr", batch_size=256), 50.0)
    write_evaluation(tmp_path / "c.json", identity("simclr"), 60.0)
    write_evaluation(tmp_path / "d.json", identity("loco"), 61.0)
    write_evaluation(tmp_path / "e.json", identity("gim", encoder={"type": "resnet18"}), 40.0)
    cells = {labels[0]: row[0] for labels, row in rows_of(results_table([tmp_path])[0]).items()}
    assert (cells["LoCo"], cells["GIM"]) == ("61.0 (+1.0)", "40.0")


def test_several_evaluations_of_one_pretraining_count_once(tmp_path):
    """The deviation is over pretrainings."""
    for seed, (first, second) in enumerate([(60.0, 62.0), (65.0, 65.0)]):
        for evaluation, accuracy in enumerate((first, second)):
            write_evaluation(tmp_path / f"{seed}{evaluation}.json", identity("loco", seed), accuracy,
                             evaluation_seed=evaluation)
    [cell] = numbers(results_table([tmp_path])[0])
    assert (cell["mean"], cell["std"], cell["n"]) == (63.0, pytest.approx(statistics.stdev([61, 65])), 2)


def test_protocols_that_differ_have_columns_that_say_so(tmp_path):
    """Of evaluations and of detection."""
    write_evaluation(tmp_path / "a.json", identity("loco"), 60.0, epochs=100)
    write_evaluation(tmp_path / "b.json", identity("loco"), 61.0, epochs=10)
    write_detection(tmp_path / "c", identity("loco"), {"bbox_AP": [20.0]})
    write_detection(tmp_path / "d", identity("loco"), {"bbox_AP": [10.0]},
                    protocol={**PROTOCOL, "train_cfg": {"max_iters": 100}})
    table, _ = results_table([tmp_path])
    assert sorted(headings(table)[1:]) == [
        "COCO-10K (max_iters=100) AP^bb", "COCO-10K (max_iters=60000) AP^bb",
        "ImageNet linear (epochs=10) top-1", "ImageNet linear (epochs=100) top-1"]


def test_a_name_does_not_make_a_baseline(tmp_path):
    """A method or a file that is only called SimCLR is none; asked for by its label, it is."""
    named = describe_method("loco", name="SimCLR")
    write_evaluation(tmp_path / "a.json", identity(named), 80.0)
    write_evaluation(tmp_path / "b.json", identity("gim"), 60.0)
    assert all(cell["delta"] is None for cell in numbers(results_table([tmp_path])[0]))
    write_evaluation(tmp_path / "c.json", identity("simclr"), 50.0)
    deltas = {row.labels[0]: next(iter(row.cells.values())).delta for row in results_table([tmp_path])[0].rows}
    assert deltas.pop("GIM") == 10.0 and None in deltas.values() and len(deltas) == 2
    [label] = [label for label, delta in deltas.items() if delta is not None]
    chosen, _ = results_table([tmp_path], baseline=label)
    assert {row.labels[0]: next(iter(row.cells.values())).delta for row in chosen.rows}["GIM"] == -20.0


def test_a_table_without_measurements_says_so(tmp_path):
    """Of a pretraining that is still running."""
    write_record(tmp_path / "run.json", new_record(PRETRAINING, identity(), {"name": PRETRAINING}))
    with pytest.raises(ValueError, match="no measurements yet"):
        results_table([tmp_path])


def test_methods_frozen_to_different_depths_are_not_compared(tmp_path):
    """They stand in columns of their own."""
    write_detection(tmp_path / "a", identity("simclr"), {"bbox_AP": [20.0]})
    write_detection(tmp_path / "b", identity("gim"), {"bbox_AP": [22.0]}, protocol={**PROTOCOL, "frozen_stages": 0})
    table, _ = results_table([tmp_path])
    assert len(table.columns) == 2 and all(cell["delta"] is None for cell in numbers(table))


def test_one_method_frozen_to_two_depths_has_two_columns(tmp_path):
    """But random weights, of which nothing is frozen, stand in the column of the others."""
    write_detection(tmp_path / "a", identity("loco"), {"bbox_AP": [20.0]})
    write_detection(tmp_path / "r", identity("random"), {"bbox_AP": [5.0]}, protocol={**PROTOCOL, "frozen_stages": 0})
    assert len(results_table([tmp_path])[0].columns) == 1
    write_detection(tmp_path / "b", identity("loco"), {"bbox_AP": [22.0]}, protocol={**PROTOCOL, "frozen_stages": 0})
    assert len(results_table([tmp_path])[0].columns) == 2


def test_every_stage_and_other_metrics(tmp_path):
    """--stage all and --metrics."""
    write_evaluation(tmp_path / "a.json", identity("loco"), 60.0)
    table, _ = results_table([tmp_path], every_stage=True)
    assert headings(table)[1:] == [f"ImageNet linear top-1 {stage}" for stage in ("res2", "res3", "res4", "res5")]
    write_detection(tmp_path / "b", identity("loco"), {"bbox_AP": [20.0], "bbox_AP50": [40.0]})
    assert headings(results_table([tmp_path], metrics=["bbox_AP50"])[0])[1:] == ["COCO-10K bbox_AP50"]


def test_ap_by_class(tmp_path):
    """A row per class, a column a method and task."""
    for name, value in (("simclr", 20.0), ("loco", 30.0)):
        write_detection(tmp_path / name, identity(name), {"bbox_AP": [25.0] * 2, "bbox_AP/cat": [value, value + 2],
                                                          "bbox_AP/dog": [1.0, None]}, num_splits=2)
    write_detection(tmp_path / "large", identity("loco", batch_size=8192), {"bbox_AP": [3.0], "bbox_AP/cat": [4.0]},
                    num_splits=2)
    table, _ = results_table([tmp_path], per_class=True)
    assert headings(table) == ["Class", "COCO-10K (SimCLR) AP^bb", "COCO-10K (LoCo (batch_size=4096)) AP^bb",
                               "COCO-10K (LoCo (batch_size=8192)) AP^bb"]
    assert rows_of(table) == {("cat",): ["21.0 ± 1.4", "31.0 ± 1.4", "4.0 (1/2)"],
                              ("dog",): ["1.0 (1/2)", "1.0 (1/2)", "–"]}


@pytest.mark.parametrize("options", [
    dict(name="loco-9"), dict(paper=True), dict(baseline="nope"), dict(metrics=["nope"]),
    dict(name="loco-3", per_class=True), dict(per_class=True), dict(name="loco-3", baseline="nope"),
    dict(per_class=True, metrics=["top1"]), dict(per_class=True, baseline="LoCo"),
])
def test_what_is_unknown_is_refused(tmp_path, options):
    """Tables, baselines and metrics."""
    write_evaluation(tmp_path / "a.json", identity("loco"), 60.0)
    with pytest.raises(ValueError):
        results_table([tmp_path], **options)


def test_an_unknown_baseline_lists_those_there_are(tmp_path, run_tool):
    """In one line of the tool."""
    write_evaluation(tmp_path / "a.json", identity("loco"), 60.0)
    assert_one_line_error(run_tool("table", tmp_path, "--baseline", "nope"), "'nope'", "'LoCo'")


# -- the papers

# The first paper's text as a machine read it, row by row; points that it took for spaces are left so.
TEXT_2 = """
Supervised	R-50	33.9	31.3	33.2	27.1
100 Epochs
SimCLR GIM Ours	R-50 R-50 R-50	32.2 27.7 (-4.5) 32.6 (+0.4)	29.9 25.7 (-4.2) 30.1 (+0.2)	33.2 30.0 (-3.2) 33.2 (+0.0)	28.6 24.6 (-4.0) 28.4 (-0.2)
SimCLR	Sh-50	32.5	30.1	33.3	28.0
GIM Ours	Sh-50 Sh-50	27.3 (-5.2) 31.8 (-0.7)	25.4 (-4.7) 29.4 (-0.7)	29.1 (-4.2) 33.1 (-0.2)	23.9 (-4.1) 27.7 (-0.3)
800 Epochs
SimCLR GIM Ours	R-50 R-50 R-50	34.8 29.3 (-5.5) 34.5 (-0.3)	32.2 27.0 (-5.2) 32.0 (-0.2)	34.8 30.7 (-4.1) 34.2 (-0.6)	30.1 26.0 (-4.1) 29.5 (-0.6)
SimCLR GIM Ours	Sh-50 Sh-50 Sh-50	33.4 28.9 (-4.5) 33.6 (+0.2)	30.9 26.9 (-4.0) 31 2 (+0 3)	33.9 29.6 (-4.3) 33.0 (-0.9)	28.7 23.9 (-4.8) 28 1 (-0.6)
"""  # noqa: E501
TEXT_3 = """
Random Init	23.5	22.0	2.5	2.5
Supervised	26.0	23.8	10.4	10.1
100 Epochs
SimCLR	25.6	23.9	11.3	11.4
GIM	22.6 (-3.0)	20.8 (-3.1)	9.7 (-1.6)	9.6 (-1.8)
Ours	26.1 (+0.3)	24.2 (+0.5)	11.7 (+0.4)	11.8 (+0.4)
800 Epochs
SimCLR	27.2	25.2	13.9	14.1
GIM	24.4 (-2.8)	22.4 (-2.8)	11.5 (-2.4)	11.7 (-2.4)
Ours	27.8 (+0.6)	25.6 (+0.4)	13.9 (+0.0)	13.8 (-0.3)
"""
NAMES = {"Random Init": "Random Init", "Supervised": "Supervised", "SimCLR": "SimCLR", "GIM": "GIM", "Ours": "LoCo (Ours)"}
ENCODERS = {"R-50": "resnet50", "Sh-50": "shufflenet_v2_50"}
NUMBER = r"(\d+)[. ](\d)(?: \(([+-]\d)[. ](\d)\))?"


def rows_of_text(text: str) -> dict[tuple, list[tuple[float, float | None]]]:
    """Every cell's value and the difference printed beside it, by method, encoder and epochs."""
    rows, epochs = {}, None
    for line in text.strip().splitlines():
        if line.endswith("Epochs"):
            epochs = int(line.split()[0])
            continue
        names, *columns = line.split("\t")
        encoders = columns.pop(0).split() if "-50" in columns[0] else ["R-50"]
        keys = [(NAMES[name], ENCODERS[encoder], epochs)
                for name, encoder in zip(re.findall("|".join(NAMES), names), encoders, strict=True)]
        for key, *row in zip(keys, *(re.findall(NUMBER, column) for column in columns), strict=True):
            rows[key] = [(float(f"{a}.{b}"), float(f"{c}.{d}") if c else None) for a, b, c, d in row]
    return rows


@pytest.mark.parametrize(("table", "text"), [("loco-2", TEXT_2), ("loco-3", TEXT_3)])
def test_published_ap_is_that_of_the_papers_text(table, text):
    """Every row, value and printed difference, in the paper's order."""
    found = {}
    for row in paper_layouts()[table]["rows"]:
        deltas = row.get("printed_deltas", [None] * len(row["values"]))
        found[row["labels"][0], row["encoder"], row.get("epochs")] = list(zip(row["values"], deltas, strict=True))
    expected = rows_of_text(text)
    assert found == expected and list(found) == list(expected)


def test_the_papers_contradictions_are_noted(tmp_path):
    """Two differences on COCO-10K are swapped in print; what the values give is shown."""
    write_detection(tmp_path, identity("loco"), {"bbox_AP": [26.0], "segm_AP": [24.0]})
    table, _ = results_table([tmp_path], "loco-3", paper=True)
    assert len([note for note in table.notes if note.startswith("the paper prints")]) == 2
    shown = {(row["method"], row["epochs"], row["metric"]): row["delta"] for row in numbers(table)
             if row["source"] == "paper" and row["dataset"] == "coco10k"}
    assert shown["LoCo (Ours)", "100", "bbox_AP"] == pytest.approx(0.5)
    assert shown["LoCo (Ours)", "100", "segm_AP"] == pytest.approx(0.3)
    table, _ = results_table([tmp_path], "loco-2", paper=True)
    assert not any(note.startswith("the paper prints") for note in table.notes)


MAIN = {rule: f"{rule}_resnet50_imagenet" for rule in ("simclr", "gim", "loco")}
ABLATIONS = {  # the configs of a table's rows, in the paper's order
    "loco-4": [MAIN["simclr"], MAIN["gim"], *(f"ablations/table4_{name}" for name in (
        "1conv", "1conv_nods_local", "1conv_local", "2conv_local", "1stage_local", "network_local", "2mlp", "2mlp_local")),
        MAIN["loco"], "ablations/table4_ours_2mlp"],
    "loco-5": ["ablations/table4_1conv_local", *(f"ablations/table5_{name}" for name in (
        "upper_gradient", "l2_1e-4", "l2_1e-3", "l2_1e-2", "1block", "2blocks")), MAIN["loco"]],
    "loco-7": [f"{rule}_presnet50_imagenet" for rule in ("simclr", "gim", "loco")],
}
SUBSAMPLING = {"cifar10": "resnet50_cifar10", "stl10": "resnet50_stl10", "fashion_mnist": "resnet18_fashion_mnist"}
THRESHOLDS = {"cifar10": 0.0, "stl10": -0.4, "fashion_mnist": 0.3}


def method_of_config(path: Path, **changes) -> tuple[dict, dict]:
    """The method that a config really builds, and the config; changes by dotted name."""
    config = Config.fromfile(str(path), import_custom_modules=False)
    config.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    config = config.to_dict()
    options = {key: value for key, value in config["model"].items() if key != "type"}
    return method_of_learner(LocalContrastiveLearner(**options), epochs_per_unit(config)), config


@pytest.mark.slow
@pytest.mark.repository
@pytest.mark.parametrize(("table", "place"), [(table, place) for table, names in ABLATIONS.items()
                                              for place in range(len(names))])
def test_every_ablation_config_fills_its_row(tmp_path, table, place):
    """Nothing but what was built decides."""
    method, config = method_of_config(ROOT / f"configs/pretrain/{ABLATIONS[table][place]}.py")
    encoder = {"type": config["model"]["encoder"]["type"]}
    write_evaluation(tmp_path / "a.json", dict(method=method, setting=identity()["setting"] | dict(encoder=encoder),
                                               repetition={"seed": 0}), 60.0)
    found, _ = results_table([tmp_path], table)
    filled = [index for index, row in enumerate(found.rows) if any(cell.mean for cell in row.cells.values())]
    assert filled == [place] and len(found.rows) == len(ABLATIONS[table])


@pytest.mark.slow
@pytest.mark.repository
@pytest.mark.parametrize(("loss", "k"), [(loss, k) for loss in ("simclr", "subsampled") for k in (1, 8)])
@pytest.mark.parametrize("dataset", SUBSAMPLING)
def test_every_config_of_the_second_paper_fills_its_row(tmp_path, dataset, loss, k):
    """Its threshold is the data set's own."""
    threshold = THRESHOLDS[dataset] if loss == "subsampled" else None
    method, config = method_of_config(ROOT / f"configs/pretrain/decoupled_{SUBSAMPLING[dataset]}.py", model__rule__k=k,
                                      model__objective__threshold=threshold)
    of = dict(method=method, setting=identity()["setting"] | dict(encoder=config["model"]["encoder"], epochs=1000),
              repetition={"seed": 0})
    write_evaluation(tmp_path / "a.json", of, 90.0, kind="linear_adam", dataset=dataset)
    table, _ = results_table([tmp_path], "subsampling-2" if dataset == "fashion_mnist" else "subsampling-1")
    [row] = [row for row in table.rows if any(cell.mean for cell in row.cells.values())]
    assert row.labels[:2] == ("1 (E2E)" if k == 1 else str(k), "SimCLR" if loss == "simclr" else "+ subsampling")


def test_rows_and_columns_beyond_the_paper(tmp_path):
    """Other settings of the paper's methods stand under its labels, other methods under their own, all below its rows."""
    write_evaluation(tmp_path / "a.json", identity("loco", epochs=800), 69.0)
    write_evaluation(tmp_path / "b.json", identity("loco", encoder={"type": "resnet18"}, epochs=3), 40.0, dataset="cifar10")
    write_evaluation(tmp_path / "c.json", identity(dict(type="loco", window=3), epochs=800), 70.0)
    table, _ = results_table([tmp_path], "loco-1", paper=True)
    paper_rows = paper_layouts()["loco-1"]["rows"]
    assert [row.labels[0] for row in table.rows[len(paper_rows):]] == ["LoCo, window 3", "LoCo (Ours)"]
    assert headings(table)[-3:] == ["ImageNet linear top-1", "ImageNet linear top-1, paper", "CIFAR-10 linear top-1"]
    filled = {row.labels: row for row in table.rows}
    assert filled["LoCo (Ours)", "✓", "ResNet-50", "800"].cells.keys() == set(table.columns[:2])


def test_results_of_another_table_are_noted(tmp_path):
    """Not shown, not lost without a word."""
    write_detection(tmp_path / "a", identity("loco"), {"bbox_AP": [20.0]}, dataset="coco")
    table, _ = results_table([tmp_path], "loco-3")
    assert any("COCO" in note for note in table.notes) and not any(row.cells for row in table.rows)


def test_part_of_the_validation_set_is_noted(tmp_path):
    """5,000 images of val2017."""
    write_detection(tmp_path / "a", identity("loco"), {"bbox_AP": [20.0]}, protocol={**PROTOCOL, "num_val_images": 100})
    table, _ = results_table([tmp_path], "loco-3")
    assert any("5,000" in note for note in table.notes)


# -- formats


@pytest.fixture
def results(tmp_path) -> Path:
    """Two methods, one of a name that formats must write literally."""
    write_detection(tmp_path / "a", identity("simclr"), {"bbox_AP": [20.0, 22.0], "segm_AP": [10.0, 10.0]})
    hostile = describe_method("gim", name="=cmd|' /C calc'!A0 & 50_% <b>")
    write_detection(tmp_path / "b", identity(hostile), {"bbox_AP": [21.0, 21.0], "segm_AP": [10.0, 10.0]})
    return tmp_path


def test_text_and_markdown(results):
    """Columns line up; pipes are escaped."""
    table, _ = results_table([results])
    lines = table_text(table, "text").splitlines()
    assert lines[0].startswith("Method ") and set(lines[1]) == {"-", " "} and len(lines) == 4
    assert lines[0].index("COCO-10K AP^bb") == lines[2].index("21.0 ±")
    markdown = table_text(table, "markdown").splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in markdown} == {4}
    assert "| 21.0 ± 0.0 (+0.0) |" in markdown[3] and "| 10.0 ± 0.0 (+0.0) |" in markdown[3]


def test_latex(results):
    """Everything special is escaped, groups span their columns."""
    text = table_text(results_table([results])[0], "latex")
    assert r"\& 50\_\% <b>" in text and r"\multicolumn{2}{c}{COCO-10K}" in text and "AP$^{bb}$" in text
    assert r"$\pm$" in text and "($+0.0$)" in text


def test_csv_and_json(results):
    """The same rows; nothing that a spreadsheet would carry out."""
    table, _ = results_table([results])
    found = json.loads(table_text(table, "json"))
    assert found["rows"] == numbers(table)
    cells = [row["method"] for row in csv.DictReader(io.StringIO(table_text(table, "csv")))]
    assert cells == ["SimCLR"] * 2 + ["'=cmd|' /C calc'!A0 & 50_% <b>"] * 2
    tidy, _ = tidy_text([results], "csv")
    rows = list(csv.DictReader(io.StringIO(tidy)))
    assert len(rows) == 8 and {row["value"] for row in rows if float(row["split"]) == 0} >= {"20.0", "21.0"}
    with pytest.raises(ValueError, match="text"):
        tidy_text([results], "text")


def test_no_negative_zero_and_units():
    """-0.04 is +0.0; computation and memory have their units."""
    assert cell_text(Cell(20.0, None, -0.04, 2, 2), "bbox_AP") == "20.0 (+0.0)"
    assert cell_text(Cell(20.0, None, -0.06, 2, 2), "bbox_AP") == "20.0 (-0.1)"
    assert cell_text(Cell(1.31e9), "largest_unit_macs") == "1.31 G"
    assert cell_text(Cell(349e6), "largest_unit_macs") == "349 M"
    assert cell_text(Cell(13.5e9), "memory_bytes") == "13.5 GB" and cell_text(Cell(0.1234567, n=1, of=1), "loss") == "0.1235"
    assert cell_text(None, "bbox_AP") == "–"


def test_tool(results, run_tool):
    """The table alone on stdout, notes and warnings on stderr."""
    (results / "run.json").write_text("{")
    finished = run_tool("table", results, "--format", "json")
    assert finished.returncode == 0, finished.stderr
    assert len(json.loads(finished.stdout)["rows"]) == 4
    assert f"warning: {results / 'run.json'}" in finished.stderr
    assert_one_line_error(run_tool("table", results / "missing"), "missing")


@pytest.mark.repository
def test_standard_methods_are_what_the_shipped_configs_build():
    """The layouts' short names are the configs' methods, options included."""
    for rule in ("simclr", "gim", "loco"):
        method, _ = method_of_config(ROOT / f"configs/pretrain/{rule}_resnet50_imagenet.py")
        assert method == standard_method(rule)
    method, _ = method_of_config(ROOT / "configs/pretrain/decoupled_resnet50_cifar10.py", model__rule__k=8,
                                 model__objective__threshold=0.0)
    assert method == standard_method(dict(type="decoupled", k=8), dict(threshold=0.0))
