"""Names of methods: every config has one that tells its learning rule."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from mmengine.config import Config

from pretrain.methods import Method, epochs_per_unit, method_of_config, method_of_record, named_method
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs" / "pretrain").rglob("*.py"))


def label_of_name(file: Path) -> str:
    """What a config's file name and title say of its method."""
    if file.parent.name == "subsampling":
        k, subsampled, next_word = file.name.split("_")[:3]
        rule = "SimCLR" if k == "k1" else f"decoupled, K = {k[1:]}"
        if next_word.startswith("window"):
            rule += f", window {next_word.removeprefix('window')}"
        return rule if subsampled == "simclr" else f"{rule}, T = "
    if file.parent.name != "ablations":
        return {"simclr": "SimCLR", "gim": "GIM", "loco": "LoCo"}[file.name.split("_")[0]]
    return ""


@pytest.fixture(scope="module")
def labels() -> dict[Path, str]:
    """The label of every pretraining config."""
    return {file: method_of_config(Config.fromfile(file, import_custom_modules=False).to_dict()).label for file in CONFIGS}


@pytest.mark.slow
def test_every_config_is_called_by_its_learning_rule(labels):
    """Labels agree with what the files are named after."""
    assert len(labels) > 60
    for file, label in labels.items():
        assert label.startswith(label_of_name(file)), file
        assert ("T = " in label) == ("subsampled" in file.name), file


@pytest.mark.slow
def test_ablations_are_told_apart(labels):
    """Rows of table 5 and the reviewers' questions, which differ in the rule, have different labels."""
    rules = {file.stem: label for file, label in labels.items()
             if file.parent.name == "ablations" and file.stem.startswith(("table5", "review"))}
    by_label = defaultdict(list)
    for name, label in rules.items():
        by_label[label].append(name)
    assert {label: len(names) for label, names in by_label.items() if len(names) > 1} == {}, by_label
    assert rules["table5_upper_gradient"] == "upper gradient only"
    assert rules["table5_1block"] == "sharing 1 block" and rules["table5_2blocks"] == "sharing 2 blocks"
    assert rules["table5_l2_1e-3"] == "LoCo, soft sharing 0.001"
    assert rules["review_window3"] == "LoCo, window 3" and rules["review_no_res2_loss"] == "LoCo, no res2 loss"
    assert rules["review_sequential_gim"] == "GIM, one unit after the other"


@pytest.mark.parametrize(("options", "method"), [
    (dict(rule="loco"), Method("loco", "LoCo")),
    (dict(rule=dict(type="loco", window=2)), Method("loco", "LoCo")),
    (dict(rule=[(0, 4), (2, 16)]), Method("units", "units [0,4), [2,16)")),
    (dict(rule=[dict(start=0, end=7, updates=(0, 3))]), Method("units", "units [0,7) updating [0,3)")),
    (dict(rule=dict(type="decoupled", k=1)), Method("simclr", "SimCLR")),
    (dict(rule=dict(type="decoupled", k=8, window=2)), Method("decoupled8", "decoupled, K = 8, window 2")),
    (dict(rule=dict(type="decoupled", cuts=[3, 5])), Method("decoupled", "decoupled at 3, 5")),
    (dict(rule="gim", subsampling=dict(threshold=None)), Method("gim", "GIM")),
    (dict(rule="gim", subsampling=dict(threshold=-0.4)), Method("gim", "GIM, T = -0.4", subsampled=True)),
    (dict(rule="gim", settings=dict(subsampling=dict(threshold=0.0, on="negatives"))),
     Method("gim", "GIM, T = 0 on negatives", subsampled=True)),
    (dict(rule="gim", subsampling=dict(threshold=0.5, average_over="kept")),
     Method("gim", "GIM, T = 0.5, mean over kept", subsampled=True)),
    (dict(rule="gim", settings=dict(subsampling=dict(threshold=0.5, on="positives", average_over="kept"))),
     Method("gim", "GIM, T = 0.5 on positives, mean over kept", subsampled=True)),
    (dict(rule="gim", settings=dict(subsampling=None), soft_sharing=None), Method("gim", "GIM")),
])
def test_method_of_options(options, method):
    """Rules by name, with options and as lists; subsampling from a learner's options and from a record."""
    assert method_of_record(options) == method


def test_repetition_and_name():
    """A method of which only its name is known is the one that a record tells."""
    assert named_method("loco") == method_of_record(dict(rule="loco"))
    assert named_method("mine") == Method("mine", "mine")
    assert epochs_per_unit(dict(custom_hooks=[dict(type="ProgressBarHook")])) is epochs_per_unit({}) is None
