"""Accuracy tables: the paper's rows and numbers, every result in its row, nothing averaged or dropped in silence."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.checkpoints import FORMAT, FORMAT_VERSION
from pretrain.encoders import build_encoder
from pretrain.readout.evaluate import Readout, read_out
from pretrain.readout.knn import NearestNeighbours
from pretrain.readout.published import GIM, LOCO, SIMCLR, TABLES, method_rows
from pretrain.readout.report import accuracy_report
from tests.conftest import assert_one_line_error
from tests.pretrain.readout.tables import json_rows, report_text, row_of, table_lines
from tests.pretrain.readout.written import STAGES, pretraining_record, write_random, write_result

# The tables


def test_table_1(tmp_path):
    """The whole table: random and supervised weights, three rules on two encoders of the paper and one of ours, deltas."""
    write_random(tmp_path / "random.json", 10.0)
    write_result(tmp_path / "supervised.json", 76.0, encoder={"type": "resnet50"}, sha256="19c8e357" + "0" * 56)
    for encoder, scores in {"resnet50": (69.0, 64.2, 69.6), "resnet18": (60.0, None, 59.0)}.items():
        for config, score in zip((SIMCLR, GIM, LOCO), scores, strict=True):
            if score is not None:
                meta = pretraining_record(config, 800, 800, encoder=dict(type=encoder))
                write_result(tmp_path / f"{encoder}_{Path(config).stem}.json", score, meta)
    assert table_lines([tmp_path], 1, paper=True) == [
        ["Method", "Architecture", "Local", "CIFAR-10 linear, 800 epochs", "paper, ImageNet linear, 800 epochs"],
        ["---"] * 5,
        ["Random", "ResNet-50", "", "10.0 (-59.0)", "–"],
        ["Supervised", "ResNet-50", "", "76.0 (+7.0)", "–"],
        ["Local Agg", "ResNet-50", "", "–", "60.2 (own schedule)"],
        ["MoCo", "ResNet-50", "", "–", "60.6 (own schedule)"],
        ["PIRL", "ResNet-50", "", "–", "63.6 (own schedule)"],
        ["CPC v2", "ResNet-50", "", "–", "63.8 (own schedule)"],
        ["SimCLR*", "ResNet-50", "", "–", "69.3 (1000 epochs)"],
        ["SimCLR", "ResNet-50", "", "69.0", "69.8"],
        ["GIM", "ResNet-50", "✓", "64.2 (-4.8)", "–"],
        ["LoCo (Ours)", "ResNet-50", "✓", "69.6 (+0.6)", "69.5"],
        ["Random", "ShuffleNet v2-50", "", "–", "–"],
        ["Supervised", "ShuffleNet v2-50", "", "–", "–"],
        ["SimCLR", "ShuffleNet v2-50", "", "–", "69.1"],
        ["GIM", "ShuffleNet v2-50", "✓", "–", "63.5"],
        ["LoCo (Ours)", "ShuffleNet v2-50", "✓", "–", "69.3"],
        ["Random", "ResNet-18", "", "–", "–"],
        ["Supervised", "ResNet-18", "", "–", "–"],
        ["SimCLR", "ResNet-18", "", "60.0", "–"],
        ["GIM", "ResNet-18", "✓", "–", "–"],
        ["LoCo (Ours)", "ResNet-18", "✓", "59.0 (-1.0)", "–"],
    ]
    ours = table_lines([tmp_path], 1)
    assert [line[:2] for line in ours[2:7]] == [[row.labels[0], "ResNet-50"] for row in method_rows("resnet50", "")]
    assert {len(line) for line in ours} == {4}, "without the paper there is no published column"


@pytest.mark.parametrize("number", [4, 5, 7])
def test_every_row_of_an_ablation_table_is_filled_by_its_own_config(tmp_path, number):
    """A result of each config, all in one folder under names that say nothing, fill all rows, each with its own."""
    rows = TABLES[number].rows
    for index, row in enumerate(rows):
        write_result(tmp_path / f"{index}.json", 40.0 + index, pretraining_record(row.config),
                     stages=STAGES if number != 7 else (*STAGES, "res6", "res7"))
    report = accuracy_report([tmp_path], number, paper=True, fmt="json")
    found = json.loads(report.text)["rows"]
    assert report.warnings == []
    assert [row["mean"] for row in found] == [40.0 + index for index in range(len(rows))]
    assert [(row["paper"], row["paper_epochs"]) for row in found] == [(row.accuracy, 100) for row in rows]
    deltas = [None, *map(float, range(1, len(rows)))]
    assert [row["delta"] for row in found] == ([None] * len(rows) if number == 5 else deltas), "Table 5 has no SimCLR"


def test_other_encoders_of_ablations_have_columns_of_their_own(tmp_path):
    """Table 4 on a ResNet-18 stands beside ResNet-50's and has its own differences; Table 7 is about one encoder alone."""
    for encoder, scores in {"resnet50": (65.0, 66.0), "resnet18": (50.0, 49.0)}.items():
        for name, score in zip(("table4_none", "table4_ours"), scores, strict=True):
            meta = pretraining_record(f"pretrain/ablations/{name}.py", encoder=dict(type=encoder))
            write_result(tmp_path / f"{encoder}_{name}.json", score, meta)
    lines = table_lines([tmp_path], 4)
    assert lines[0][3:] == ["CIFAR-10 linear, 100 epochs", "CIFAR-10 linear, ResNet-18, 100 epochs"]
    assert lines[2][3:] == ["65.0", "50.0"]
    assert lines[12] == ["Ours", "✓", "✓", "66.0 (+1.0)", "49.0 (-1.0)"]
    assert len(accuracy_report([tmp_path], 7).warnings) == 4


# What is in no row


def test_results_in_no_row_are_told_with_the_reason(tmp_path):
    """Other decoders, rules, sequential training, old records, unknown weights and encoders, a last stage not read out."""
    encoder = dict(type="resnet50")
    good = pretraining_record(SIMCLR, encoder=encoder)
    sequential = pretraining_record(GIM, encoder=encoder) | {"epochs_per_unit": 25}
    old = pretraining_record(LOCO, encoder=encoder)
    del old["max_epochs"], old["decoder"]
    results = {
        "decoder": (pretraining_record(SIMCLR, encoder=encoder, decoder=dict(mlp_layers=4)), {}, '{"mlp_layers": 4}'),
        "rule": (pretraining_record(SIMCLR, encoder=encoder, rule=[(0, 4), (2, 16)]), {}, "units [0,4) [2,16)"),
        "sequential": (sequential, {}, "one after the other"),
        "old": (old, {}, "lacks max_epochs"),
        "weights": (None, dict(encoder=encoder, sha256="f" * 64), "no pretraining record"),
        "encoder": (None, dict(encoder={"type": "resnet51"}), "'resnet51' is none of"),
        "stage": (good, dict(stages=("res2", "res3")), "last stage, res5"),
    }
    for name, (meta, options, _) in results.items():
        write_result(tmp_path / f"{name}.json", 60.0, meta, **options)
    report = accuracy_report([tmp_path], 1)
    assert len(report.warnings) == len(results)
    for name, (_, _, reason) in results.items():
        (line,) = [line for line in report.warnings if line.startswith(f"{tmp_path / name}.json is in no row of Table 1: ")]
        assert reason in line
    assert {cell for line in report.text.splitlines()[2:] for cell in line.strip("| ").split(" | ")[3:]} == {"–"}
    lines = table_lines([tmp_path], 1)
    assert lines[0][3:] == ["Acc."] and lines[4] == ["SimCLR", "ResNet-50", "", "–"]


def test_supervised_is_told_by_the_hash_of_torchvisions_files(tmp_path):
    """Current weights of torchvision count as those that the paper names; a random encoder's row is that of its own name."""
    from torchvision.models import ResNet18_Weights

    digits = ResNet18_Weights.IMAGENET1K_V1.url.rpartition("-")[2].removesuffix(".pth")
    write_result(tmp_path / "a.json", 70.0, encoder={"type": "resnet18"}, sha256=digits + "0" * 56)
    write_random(tmp_path / "b.json", 9.0, "resnet18")
    rows = json_rows([tmp_path], 1)
    assert row_of(rows, method="Supervised", architecture="ResNet-18")["mean"] == 70.0
    assert row_of(rows, method="Random", architecture="ResNet-18")["mean"] == 9.0
    assert row_of(rows, method="Random", architecture="ResNet-50")["mean"] is None


# Formats


@pytest.fixture
def results(tmp_path) -> Path:
    """SimCLR and LoCo on a PResNet-50."""
    for name, score in (("simclr", 66.0), ("loco", 65.5)):
        meta = pretraining_record(f"pretrain/ablations/table7_presnet50_{name}.py")
        write_result(tmp_path / f"{name}.json", score, meta, stages=(*STAGES, "res6", "res7"))
    return tmp_path


def test_markdown_shows_the_memory_saving_of_table_7(results):
    """The published columns are both of the paper's."""
    assert table_lines([results], 7, paper=True) == [
        ["Method", "CIFAR-10 linear, 100 epochs", "paper, ImageNet linear, 100 epochs", "paper, memory saving ratio"],
        ["---"] * 4,
        ["SimCLR", "66.0", "66.8", "1"],
        ["GIM", "–", "52.6", "4.56"],
        ["LoCo", "65.5 (-0.5)", "66.6", "2.76"],
    ]


def test_latex(results):
    """booktabs, ASCII only, a group for each column, as many cells in every line."""
    text = accuracy_report([results], 7, paper=True, fmt="latex", stages="all").text
    lines = text.splitlines()
    assert text.isascii()
    assert lines[:2] == [r"% needs \usepackage{booktabs,amssymb}", r"\begin{tabular}{lcccccccc}"]
    assert r"\multicolumn{6}{c}{CIFAR-10 linear, 100 epochs}" in lines[3]
    assert r"Method & res2 & res3 & res4 & res5 & res6 & res7 & Acc. & Memory saving \\" in lines
    quoted = accuracy_report([results], 1, paper=True, fmt="latex").text
    assert r"SimCLR* & ResNet-50 &  & -- & 69.3 (1000 epochs) \\" in quoted
    assert r"MoCo & ResNet-50 &  & -- & 60.6 (own schedule) \\" in quoted
    assert lines[-3].startswith("LoCo & 60.5 ($-0.5$) & ") and lines[-3].endswith(r"& 66.6 & 2.76 \\")
    assert {line.count("&") for line in lines[5:-2] if "&" in line} == {8}
    table4 = accuracy_report([results], 4, fmt="latex").text
    assert r"Ours & $\checkmark$ & $\checkmark$ & 65.5 ($-0.5$) \\" in table4
    assert r"1 stage & $\checkmark$ &  & -- \\" in table4


def test_csv_and_json_have_the_same_rows(results):
    """One line for each row, column and stage; plain numbers, nothing where there is no value."""
    rows = json_rows([results], 7, paper=True, stages="all")
    lines = list(csv.DictReader(io.StringIO(report_text([results], 7, paper=True, fmt="csv", stages="all"))))
    assert lines == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    assert len(rows) == 3 * 6
    assert not any("paper" in key for row in json_rows([results], 7) for key in row)
    epochs = {row["method"]: row["paper_epochs"] for row in json_rows([results], 1, paper=True)}
    assert (epochs["LoCo (Ours)"], epochs["SimCLR*"], epochs["MoCo"]) == (800, 1000, None)


@pytest.mark.parametrize("options, message", [
    (dict(number=2), "no accuracy table 2; known are 1, 4, 5, 7"),
    (dict(number=1, fmt="html"), "unknown format 'html'; known are markdown, latex, csv, json"),
    (dict(number=1, stages="res5"), "unknown stage 'res5'; known are last, all"),
])
def test_unknown_options(results, options, message):
    """The choices there are, are named."""
    with pytest.raises(ValueError, match=message):
        accuracy_report([results], **options)


@pytest.mark.slow
def test_tool(results, run_tool, tmp_path):
    """The table alone on stdout, what is in no row on stderr; mistakes are one line and exit code 2."""
    done = run_tool("report_linear", results, "--table", 1, "--paper", "--format", "csv")
    report = accuracy_report([results], 1, paper=True, fmt="csv")
    assert (done.returncode, done.stdout) == (0, report.text)
    assert [f"warning: {warning}" for warning in report.warnings] == done.stderr.splitlines()
    refused = run_tool("report_linear", results, "--table", 1, "--stage", "res5")
    assert refused.returncode == 2 and "argument --stage: invalid choice: 'res5'" in refused.stderr
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text('{"kind": "lin')
    bad = tmp_path / "bad" / "result.json"
    assert_one_line_error(run_tool("report_linear", bad, "--table", 1), bad, "not JSON")


@pytest.mark.slow
def test_real_readouts_are_understood(tmp_path):
    """Results as a readout writes them, of an exported GIM and of random weights, go into their rows."""
    rng = np.random.default_rng(0)
    for split, label, i in itertools.product(("train", "test"), ("a", "b"), range(4)):
        image = tmp_path / "shapes" / split / label / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(image)
    record = pretraining_record(GIM, encoder=dict(type="resnet18", stem="small"))
    weights = build_encoder(record["encoder"]).state_dict()
    meta = {"format": FORMAT, "version": FORMAT_VERSION, **record}
    torch.save({"state_dict": weights, "meta": meta}, tmp_path / "gim.pth")
    written = {}
    for name, encoder in ((str(tmp_path / "gim.pth"), None), ("random", record["encoder"])):
        readout = Readout(name, "folder", str(tmp_path / "shapes"), encoder=encoder, image_size=16, workers=0, device="cpu",
                          out=str(tmp_path / "results" / f"{Path(name).stem}.json"))
        written[Path(name).stem] = read_out(readout, NearestNeighbours(k=3))["stages"]["res5"]["top1"]
    report = accuracy_report([tmp_path / "results"], 1, fmt="json")
    rows = [row for row in json.loads(report.text)["rows"] if row["architecture"] == "ResNet-18 (stem=small)"]
    assert {row["column"] for row in rows} == {"shapes (folder) kNN, 100 epochs"}
    means = {row["method"]: row["mean"] for row in rows if row["runs"]}
    assert means == {"Random": written["random"], "GIM": written["gim"]}
