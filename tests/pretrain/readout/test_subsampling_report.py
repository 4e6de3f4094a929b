"""The second paper's tables and figures from readout results."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from pretrain.complexity import unit_macs
from pretrain.encoders import build_encoder
from pretrain.local_units import build_units
from pretrain.memory import step_cost
from pretrain.readout.averages import STAGES
from pretrain.readout.sheets import FORMATS
from pretrain.readout.subsampling_costs import cost_of_record
from pretrain.readout.subsampling_published import CIFAR10, FASHION_MNIST, RESULTS, STL10, Cost
from pretrain.readout.subsampling_report import FIGURES, TABLES, subsampling_report
from pretrain.readout.subsampling_sources import PaperResults
from tests.conftest import assert_one_line_error
from tests.pretrain.readout.subsampled import COLUMN, cells, legend, numbers, short, write
from tests.pretrain.readout.tables import row_of
from tests.pretrain.readout.written import record_of_config

# Tables


def test_table_1(tmp_path):
    """A constructed case: means, sample deviations and differences as the statistics module has them.

    A K that the paper lacks stands in its place; the paper's without results are there, too, also the K = 16 that this
    encoder cannot be cut into.
    """
    accuracies = {(1, "simclr"): [50.1, 51.3, 50.7], (2, "simclr"): [45.0, 44.2], (2, "subsampled"): [46.1, 45.3, 47.2]}

    def run(k: int, loss: str, seed: int = 0) -> dict[str, Any]:
        return short(1, loss, seed=seed, model__rule__k=k)

    for (k, loss), values in accuracies.items():
        for seed, value in enumerate(values):
            write(tmp_path, value, run(k, loss, seed))

    def accuracy(k: int, loss: str) -> str:
        values = accuracies[k, loss]
        text = f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
        if loss == "subsampled" and (k, "simclr") in accuracies:
            text += f" ({mean(values) - mean(accuracies[k, 'simclr']):+.1f})"
        return text + (f" ({len(values)} runs)" if len(values) > 1 else "")

    def costs(k: int, loss: str) -> list[str]:
        cost = cost_of_record(run(k, loss))
        return [f"{cost.max_macs / 1e6:#.3g} M", f"{cost.memory_bytes / 1e6:.0f} MB"]

    report = subsampling_report([tmp_path])
    assert report.warnings == report.notes == []
    assert cells(tmp_path) == [
        ["K", "Method", "Accuracy", "Max MACs", "Memory"],
        ["---"] * 5,
        ["1 (E2E)", "SimCLR", accuracy(1, "simclr"), *costs(1, "simclr")],
        ["1 (E2E)", "+ subsampling", "–", "–", "–"],
        ["2", "SimCLR", accuracy(2, "simclr"), *costs(2, "simclr")],
        ["2", "+ subsampling", accuracy(2, "subsampled"), *costs(2, "subsampled")],
        ["4", "SimCLR", "–", "–", "–"],
        ["4", "+ subsampling", "–", "–", "–"],
        ["8", "SimCLR", "–", "–", "–"],
        ["8", "+ subsampling", "–", "–", "–"],
        ["16", "SimCLR", "–", "–", "–"],
        ["16", "+ subsampling", "–", "–", "–"],
    ]
    assert legend(tmp_path) == [f"{COLUMN}, T = 0"]
    assert accuracy(2, "subsampled") == "46.2 ± 1.0 (+1.6) (3 runs)", "worked out by hand"


def test_table_2(tmp_path):
    """Fashion-MNIST stands in table 2, SimCLR and ours side by side; both tables appear where both have results."""
    write(tmp_path, 80.0, short(8, data="fashion_mnist"), source="fashion_mnist")
    write(tmp_path, 81.5, short(8, "subsampled", "fashion_mnist"), source="fashion_mnist")
    column = "Fashion-MNIST linear (Adam), ResNet-18 (stem=stl, width=16), 5 epochs, T = 0.3"
    table = [["K", "SimCLR", "+ subsampling"], ["---"] * 3, ["1 (E2E)", "–", "–"], ["8", "80.0", "81.5 (+1.5)"]]
    assert cells(tmp_path) == cells(tmp_path, table=2) == table
    assert legend(tmp_path) == [column]
    with pytest.raises(ValueError, match="no results for Table 1; those given are on Fashion-MNIST: try --table 2"):
        subsampling_report([tmp_path], table=1)
    write(tmp_path, 50.0, short(4))
    assert [line for line in legend(tmp_path) if line.startswith("**")] == ["**Table 1**", "**Table 2**"]
    assert cells(tmp_path, table=2) == table
    assert subsampling_report([tmp_path], table=2).warnings == ["not in this table: 1 result on CIFAR-10"]
    assert {row["table"] for row in numbers(tmp_path)} == {"Table 1", "Table 2"}


def test_stages(tmp_path):
    """A column for every stage, the costs once behind them."""
    write(tmp_path, 45.0, short(4))
    lines = cells(tmp_path, stages="all")
    assert lines[0][2:] == ["res2", "res3", "res4", "res5", "Max MACs", "Memory"]
    assert lines[4][2:6] == ["42.0", "43.0", "44.0", "45.0"]


@pytest.mark.parametrize("options, message", [
    (dict(fmt="html"), "unknown format 'html'; known are markdown, latex, csv, json"),
    (dict(stages="res5"), "unknown stage 'res5'; known are last, all"),
    (dict(table=3), "unknown table 3; known are .*1, 2"),
    (dict(figure=1), "unknown figure 1; known are .*3, 4"),
    (dict(table=1, figure=3), "exclude each other"),
])
def test_unknown_options(tmp_path, options, message):
    """The choices there are, are named."""
    with pytest.raises(ValueError, match=message):
        subsampling_report([tmp_path], **options)


# Figures


def test_figure_3(tmp_path):
    """Accuracy by threshold, SimCLR at -1, thresholds in ascending order; the paper's two known points beside them."""
    for threshold in (0.2, -0.4, 0.0):
        write(tmp_path, 45.0 + threshold, short(8, "subsampled", model__subsampling__threshold=threshold))
    write(tmp_path, 40.0, short(8))
    write(tmp_path, 10.0, short(8, "subsampled", model__subsampling__on="positives"))
    assert [line[:3] for line in cells(tmp_path, figure=3)] == [
        ["K", "T", "Accuracy"], ["---"] * 3, ["8", "-1 (SimCLR)", "40.0"], ["8", "-0.4", "44.6 (+4.6)"],
        ["8", "0", "45.0 (+5.0)"], ["8", "0.2", "45.2 (+5.2)"]]
    assert [row["threshold"] for row in numbers(tmp_path, figure=3)] == [-1.0, -0.4, 0.0, 0.2]
    assert subsampling_report([tmp_path], figure=3).warnings == [
        "not in Figure 3: 1 result with positives or negatives alone subsampled (--figure 4)"]
    paper = [row for row in numbers(tmp_path, figure=3, paper=True) if row["source"] == "paper" and row["k"] == 16]
    assert [(row["threshold"], row["mean"]) for row in paper] == [(-1.0, 85.9), (0.0, 87.1)]


def test_figure_4(tmp_path):
    """Accuracy by K for nothing, positives, negatives and both, at one threshold a group."""
    values = {"none": 40.0, "positives": 41.0, "negatives": 42.0, "both": 43.0}
    for on, value in values.items():
        for k in (4, 8):
            meta = short(k) if on == "none" else short(k, "subsampled", model__subsampling__on=on)
            write(tmp_path, value - k, meta)
    write(tmp_path, 30.0, short(8, "subsampled", model__subsampling__threshold=0.5))
    lines = cells(tmp_path, figure=4)
    assert lines[0] == ["K", *(f"CIFAR-10, T = {threshold}: {on}" for threshold in ("0", "0.5") for on in values)]
    assert legend(tmp_path, figure=4) == [f"- CIFAR-10, T = {threshold}: {COLUMN}, T = {threshold}"
                                          for threshold in ("0", "0.5")]
    assert lines[2] == ["4", "36.0", "37.0 (+1.0)", "38.0 (+2.0)", "39.0 (+3.0)", "36.0", "–", "–", "–"]
    assert lines[3] == ["8", "32.0", "33.0 (+1.0)", "34.0 (+2.0)", "35.0 (+3.0)", "32.0", "–", "–", "30.0 (-2.0)"]
    paper = {(row["k"], row["method"]): row["mean"] for row in numbers(tmp_path, figure=4, paper=True)
             if row["source"] == "paper"}
    assert [paper[16, on] for on in values] == [85.9, None, None, 87.1]


# The paper's numbers


def test_published_numbers():
    """As the paper's text has them.

    Table 1, CIFAR-10 | STL-10, each accuracy, Max MACs, memory: K = 1 SimCLR 92.1 ± 0.2, ours 91.4 ± 0.4, 1.31 G, 13.5 GB |
    87.6, 86.7, 17.1 G, 16.7 GB; K = 4 90.0 ± 0.1, 89.9 ± 0.3, 349 M, 8.7 GB | 84.3, 82.6, 4.65 G, 9.7 GB; K = 8 87.5 ± 0.4,
    88.4 ± 0.4, 196 M, 6.3 GB | 80.8, 79.7, 2.63 G, 7.0 GB; K = 16 85.9 ± 0.3, 87.1 ± 0.4, 123 M, 5.6 GB | 77.8, 78.8,
    1.69 G, 6.1 GB. Table 2: K = 1 91.3 ± 0.1, 90.3 ± 0.2; K = 8 87.2 ± 0.3, 88.2 ± 0.3. Section 4: "T = 0 for CIFAR, T = 0.3
    for Fashion-MNIST and T = -0.4 for STL-10".
    """
    stated = " ".join(test_published_numbers.__doc__.split())
    assert [results.threshold for results in RESULTS] == [0.0, -0.4, 0.3]
    assert [tuple(results.simclr) for results in RESULTS] == [tuple(results.subsampled) for results in RESULTS] == [
        (1, 4, 8, 16), (1, 4, 8, 16), (1, 8)]
    for k in (1, 4, 8, 16):
        simclr, ours = (f"{value} ± {std}" for value, std in (CIFAR10.simclr[k], CIFAR10.subsampled[k]))
        cost, other = CIFAR10.costs[k], STL10.costs[k]
        macs = f"{cost.max_macs / 1e9:.3g} G" if k == 1 else f"{cost.max_macs / 1e6:.3g} M"
        first = f"K = {k} " + ("SimCLR " if k == 1 else "") + f"{simclr}, " + ("ours " if k == 1 else "")
        assert (f"{first}{ours}, {macs}, {cost.memory_bytes / 1e9:.1f} GB | {STL10.simclr[k][0]}, "
                f"{STL10.subsampled[k][0]}, {other.max_macs / 1e9:.3g} G, {other.memory_bytes / 1e9:.1f} GB") in stated
    for k in (1, 8):
        pair = (FASHION_MNIST.simclr[k], FASHION_MNIST.subsampled[k])
        assert f"K = {k} " + ", ".join(f"{value} ± {std}" for value, std in pair) in stated


def test_published_tables_beside_ours(tmp_path):
    """The paper's columns have its own form; cells of ours that are empty say so."""
    write(tmp_path, 45.0, short(4))
    lines = cells(tmp_path, paper=True)
    assert lines[2][-6:] == ["92.1 ± 0.2 (5 runs)", "1.31 G", "13.5 GB", "87.6", "17.1 G", "16.7 GB"]
    assert lines[-1] == ["16", "+ subsampling", "–", "–", "–", "87.1 ± 0.4 (5 runs)", "123 M", "5.6 GB",
                         "78.8", "1.69 G", "6.1 GB"]
    assert lines[6][-1] == "7.0 GB"
    assert cells(tmp_path, table=2, paper=True)[2:] == [["1 (E2E)", "91.3 ± 0.1 (5 runs)", "90.3 ± 0.2 (5 runs)"],
                                                        ["8", "87.2 ± 0.3 (5 runs)", "88.2 ± 0.3 (5 runs)"]]


def test_headings_are_short_and_every_title_is_told_once(tmp_path):
    """Groups of columns are told apart by short names, numbered where they would be called alike, with a legend above."""
    write(tmp_path, 45.0, short(4))
    write(tmp_path, 44.0, short(4, model__temperature=0.1))
    header = cells(tmp_path, paper=True)[0]
    names = ["CIFAR-10 (1)", "CIFAR-10 (2)", "paper, CIFAR-10", "paper, STL-10"]
    assert header == ["K", "Method", *(f"{name}: {heading}" for name in names for heading in
                                       ("Accuracy", "Max MACs", "Memory"))]
    lines = legend(tmp_path, paper=True)
    assert [line.partition(": ")[0] for line in lines] == [f"- {name}" for name in names]
    assert all(line.startswith("- CIFAR-10") and COLUMN in line for line in lines[:2])
    assert "temperature=0.5" in lines[0] + lines[1] and "temperature=0.1" in lines[0] + lines[1]
    assert lines[2].endswith(f": {PaperResults(CIFAR10).title}, T = 0")
    text = subsampling_report([tmp_path], paper=True).text
    assert all(text.count(line.partition(": ")[2]) == 1 for line in lines)


def test_costs():
    """Counted at the record's batch and image size: two views of every image, and Adam's two moments on top of the peak.

    Records without settings have none.
    """
    encoder, rule = dict(type="resnet18", stem="stl", width=16), dict(type="decoupled", k=4)
    record = short(4, "subsampled", train_dataloader__batch_size=64, data_preprocessor__size=40)
    built = build_encoder(encoder)
    options = dict(rule=rule, decoder=dict(conv_blocks="plain_conv", norm="none"), subsampling=dict(threshold=0.0))
    step = step_cost(encoder, options, batch_size=128, input_size=40)
    assert cost_of_record(record) == Cost(max(unit_macs(built, build_units(rule, built.stages), 40)),
                                          step.peak_bytes + 2 * step.optimizer_bytes)
    assert cost_of_record({key: value for key, value in record.items() if key != "settings"}) is None


@pytest.mark.slow
@pytest.mark.parametrize("k", CIFAR10.costs)
def test_costs_of_the_papers_own_pretrainings(k):
    """Counted from the record of the config: largest block within 2.5 % of the paper's, memory within 3.5 %."""
    cost = cost_of_record(record_of_config(f"pretrain/subsampling/k{k}_simclr_resnet50_cifar10.py"))
    assert cost.max_macs == pytest.approx(CIFAR10.costs[k].max_macs, rel=0.025)
    assert cost.memory_bytes == pytest.approx(CIFAR10.costs[k].memory_bytes, rel=0.035)


# Formats


@pytest.fixture
def results(tmp_path) -> Path:
    """SimCLR and subsampled runs with K = 4 on two data sets."""
    for loss, value in (("simclr", 45.0), ("subsampled", 46.0)):
        write(tmp_path, value, short(4, loss))
        write(tmp_path, value + 30, short(4, loss, "fashion_mnist"), source="fashion_mnist")
    return tmp_path


@pytest.mark.parametrize("options", [dict(), dict(table=1, paper=True), dict(figure=3), dict(figure=4, stages="all")])
def test_csv_and_json_have_the_same_rows(results, options):
    """One line for each row, source, method and stage; plain numbers, nothing where there is no value."""
    rows = numbers(results, **options)
    lines = list(csv.DictReader(io.StringIO(subsampling_report([results], fmt="csv", **options).text)))
    keys = list(lines[0])
    assert lines == [{key: "" if row.get(key) is None else str(row[key]) for key in keys} for row in rows]
    assert row_of(rows, k=4, mean=45.0, source="ours", stage="last" if "stages" not in options else "res5")


@pytest.mark.parametrize("options", [dict(), dict(paper=True), dict(figure=4)])
def test_latex(results, options):
    """booktabs, ASCII only, as many cells in every line of a table."""
    text = subsampling_report([results], fmt="latex", **options).text
    assert text.isascii()
    for table in text.split(r"\begin{tabular}")[1:]:
        lines = table.splitlines()
        width = len(lines[0].strip("{}"))
        body = lines[lines.index(r"\midrule") - 1:]
        assert {line.count("&") + 1 for line in body if "&" in line} == {width}


@pytest.mark.slow
def test_tool(results, run_tool, tmp_path):
    """The table alone on stdout, what to know of it on stderr; mistakes are one line and exit code 2."""
    done = run_tool("report_subsampling", results, "--table", 1, "--format", "csv", "--paper")
    report = subsampling_report([results], 1, paper=True, fmt="csv")
    assert (done.returncode, done.stdout) == (0, report.text)
    assert done.stderr.splitlines() == [f"warning: {line}" for line in report.warnings]
    for option, known in {"format": FORMATS, "stage": STAGES, "table": TABLES, "figure": FIGURES}.items():
        refused = run_tool("report_subsampling", results, f"--{option}", "res5")
        assert refused.returncode == 2 and f"argument --{option}: invalid" in refused.stderr
        assert all(repr(choice) in refused.stderr or f"{choice}" in refused.stderr for choice in known)
    (tmp_path / "empty").mkdir()
    assert_one_line_error(run_tool("report_subsampling", tmp_path / "empty"), "no readout results below")
