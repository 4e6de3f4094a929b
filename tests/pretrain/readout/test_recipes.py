"""The paper's rows: their numbers, and how a pretraining is told to be one of them."""

from __future__ import annotations

from collections import Counter

import pytest

from pretrain.readout.published import TABLES, paper_table
from pretrain.readout.recipes import architecture, encoder_spec, recipe_of_model, recipe_of_record, row_recipe
from tests.conftest import ROOT
from tests.pretrain.readout.written import pretraining_record

ABLATIONS = sorted(ROOT.glob("configs/pretrain/ablations/table*.py"))


def test_published_accuracies_are_those_of_the_paper():
    """Tables 1, 4, 5 and 7 as transcribed from the paper's text; GIM on ResNet-50 and our two baselines have none."""
    values = {number: [row.accuracy for row in table.rows] for number, table in TABLES.items()}
    assert values == {
        1: [None, None, 60.2, 60.6, 63.6, 63.8, 69.3, 69.8, None, 69.5, None, None, 69.1, 63.5, 69.3],
        4: [65.7, 60.9, 65.6, 63.6, 65.1, 65.8, 65.8, 65.8, 67.1, 62.3, 66.2, 67.5],
        5: [65.1, 65.3, 65.5, 66.0, 65.9, 64.8, 65.3, 66.2],
        7: [66.8, 52.6, 66.6],
    }
    assert [row.labels[0] for row in TABLES[1].rows if row.quoted] == ["Local Agg", "MoCo", "PIRL", "CPC v2", "SimCLR*"]
    assert [row.memory_saving for row in TABLES[7].rows] == [1.0, 4.56, 2.76]
    assert {number: table.epochs for number, table in TABLES.items()} == {1: 800, 4: 100, 5: 100, 7: 100}


@pytest.mark.parametrize("number", [4, 5, 7])
def test_every_ablation_config_is_exactly_one_row(number):
    """Rows and configs pair off, by name and by recipe, and each config states its row's name and accuracy."""
    rows = TABLES[number].rows
    configs = {f"pretrain/ablations/{path.name}": path for path in ABLATIONS if path.name.startswith(f"table{number}_")}
    assert Counter(row.config for row in rows) == Counter(list(configs))
    for config, path in configs.items():
        recipe = recipe_of_record(pretraining_record(config))
        (row,) = [row for row in rows if row_recipe(row) == recipe]
        docstring = path.read_text().splitlines()[0]
        assert row.config == config
        assert f'"{row.labels[0]}"' in docstring and f"{row.accuracy} % in the paper" in docstring
        if number == 4:
            assert (row.labels[1], row.labels[2]) == (", local" in docstring, ", sharing" in docstring)


def test_rules_are_told_by_their_units_and_options_by_their_effect():
    """A name, its spelled-out defaults and the same list of units are one recipe; what changes the training is another."""
    model = dict(rule="loco", decoder=dict(conv_blocks=1))
    same = [
        dict(rule=dict(type="loco", window=2, res2_loss=True), decoder=dict(conv_blocks=1, downsample=True, mlp_layers=2)),
        dict(rule=[[7, 16], [3, 13], [0, 7], [0, 3]], decoder=dict(conv_blocks=1, norm="hidden", out_channels=128)),
    ]
    others = [
        dict(rule="loco"),
        dict(rule=dict(type="loco", res2_loss=False), decoder=dict(conv_blocks=1)),
        dict(rule="loco", decoder=dict(conv_blocks=1, downsample=False)),
        dict(rule="loco", decoder=dict(conv_blocks=1), soft_sharing=dict(coefficient=1e-3)),
    ]
    recipe = recipe_of_model(model, "resnet50")
    assert all(recipe_of_model(other, dict(type="resnet50", stem="imagenet")) == recipe for other in same)
    assert all(recipe_of_model(other, "resnet50") != recipe for other in others)
    assert recipe_of_model(model, dict(type="resnet50", stem="small")) != recipe
    no_convolution = [recipe_of_model(dict(rule="gim", decoder=dict(downsample=flag)), "resnet18") for flag in (True, False)]
    assert no_convolution[0] == no_convolution[1]


def test_paper_tables_are_found_by_number():
    """Each under its own."""
    assert all(paper_table(number).number == number for number in TABLES)


def test_architectures_are_spelled_as_in_the_paper():
    """Names of the paper, options that are not the default, and timm's own names."""
    assert [architecture(encoder_spec(spec)) for spec in (
        "shufflenet_v2_50", "presnet50", dict(type="resnet18", stem="small"), dict(type="TimmEncoder", name="convnext_tiny")
    )] == ["ShuffleNet v2-50", "PResNet-50", "ResNet-18 (stem=small)", "convnext_tiny"]
