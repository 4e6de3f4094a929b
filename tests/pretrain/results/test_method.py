"""What was trained: keys and labels of methods, the setting of configs, and the identity of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pretrain.learner import LocalContrastiveLearner
from pretrain.local.units import RULES, simclr_units
from pretrain.objectives import OBJECTIVES, Objective
from pretrain.results.method import (
    Method,
    backbone_identity,
    dataset_name,
    describe_method,
    differences,
    epochs_per_unit,
    foreign_method,
    learner_options,
    method_of_learner,
    random_identity,
    setting_of_config,
    shown_method,
    standard_method,
    unique_labels,
)
from tests.conftest import ROOT
from tests.pretrain.eval.written import identity_of_config

CONFIGS = sorted((ROOT / "configs/pretrain").rglob("*.py"))
STAGES = {"res2": (0, 2), "res3": (2, 4), "res4": (4, 6), "res5": (6, 8)}
LOCO_HEAD, DECOUPLED_HEAD = dict(conv_blocks=1), dict(conv_blocks="plain_conv", norm="none")


@pytest.fixture
def toy_loss(monkeypatch):
    """An objective that is registered for one test."""

    class ToyLoss(Objective):
        label = "Toy loss"

        def __init__(self, margin: float = 1.0):
            super().__init__()

        def forward(self, projections):
            return self.margin * projections.sum(), {}

    monkeypatch.setitem(OBJECTIVES.module_dict, "ToyLoss", ToyLoss)


def method_of(name: str, **options) -> dict:
    """The method of a config below ``configs/pretrain``, with overrides by dotted name."""
    return identity_of_config(f"pretrain/{name}.py", **options)["method"]


def config_of(name: str, **options) -> dict:
    """A config of ``configs/pretrain`` as plain data, with overrides by dotted name."""
    config = Config.fromfile(str(ROOT / "configs/pretrain" / f"{name}.py"), import_custom_modules=False)
    config.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    return config.to_dict()


def setting_of(name: str = "loco_resnet18_cifar10", **options) -> dict:
    return setting_of_config(config_of(name, **options), 50_000)


@pytest.mark.repository
@pytest.mark.parametrize(("name", "options", "label", "standard"), [
    ("gim_presnet50_imagenet", {}, "GIM", dict(rule="gim")),
    ("loco_resnet18_cifar10", {}, "LoCo", dict(rule="loco", objective=dict(temperature=0.5))),
    ("ablations/table4_1conv_local", {}, "GIM, 1 conv block", dict(rule="gim", head=LOCO_HEAD)),
    ("ablations/table4_1conv_nods_local", {}, "GIM, 1 conv block, w/o downsampling",
     dict(rule="gim", head=dict(conv_blocks=1, downsample=False))),
    ("ablations/table4_1stage_local", {}, "GIM, 1 stage", dict(rule="gim", head=dict(conv_blocks="stage"))),
    ("ablations/review_simclr_1conv_2mlp", {}, "SimCLR, 1 conv block, 4-layer MLP",
     dict(rule="simclr", head=dict(conv_blocks=1, mlp_layers=4))),
    ("ablations/table5_1block", {}, "sharing 1 block", dict(rule=dict(type="sharing", blocks=1))),
    ("ablations/table5_2blocks", {}, "sharing 2 blocks", dict(rule=dict(type="sharing", blocks=2))),
    ("ablations/table5_upper_gradient", {}, "upper gradient only", dict(rule="upper_gradient")),
    ("ablations/table5_l2_1e-3", {}, "LoCo, soft sharing 0.001", dict(rule="loco", soft_sharing=dict(coefficient=1e-3))),
    ("ablations/review_window3", {}, "LoCo, window 3", dict(rule=dict(type="loco", window=3))),
    ("ablations/review_no_res2_loss", {}, "LoCo, no res2 loss", dict(rule=dict(type="loco", res2_loss=False))),
    ("decoupled_resnet50_cifar10", {}, "decoupled, K = 1", dict(rule=dict(type="decoupled", k=1))),
    ("decoupled_resnet18_stl10_short", {"model__rule__k": 8, "model__objective__threshold": -0.4},
     "decoupled, K = 8, T = -0.4", dict(rule=dict(type="decoupled", k=8), objective=dict(threshold=-0.4))),
    ("decoupled_resnet18_cifar10_short", {"model__rule__k": 4, "model__rule__window": 2}, "decoupled, K = 4, window 2",
     dict(rule=dict(type="decoupled", k=4, window=2))),
])
def test_methods_of_configs(name, options, label, standard):
    """The label of every family of configs; the key is that of the paper's method with these options."""
    method = method_of(name, **options)
    assert method["label"] == label
    assert method["key"] == standard_method(**standard)["key"]
    assert method["loss"] == "NT-Xent (nats)"


@pytest.mark.slow
@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_an_identity_of_plain_data(file):
    """JSON holds it as it is; the label is the one that the file is named after; options that build a learner come back."""
    identity, config = identity_of_config(file), config_of(file.relative_to(ROOT / "configs/pretrain").with_suffix(""))
    assert json.loads(json.dumps(identity)) == identity
    method, setting = identity["method"], identity["setting"]
    assert method["label"].startswith(rule_of_name(file)), method["label"]
    assert isinstance(setting["image_size"], int) and 0 < setting["views"]["min_scale"] < 1
    assert setting["batch_size"] == config["train_dataloader"]["batch_size"]
    assert setting["epochs"] == config["train_cfg"]["max_epochs"]
    assert setting["precision"] == (config["model"].get("autocast") or "float32")
    assert setting["optimizer"]["optimizer"].items() >= config["optim_wrapper"]["optimizer"].items()
    assert setting["schedule"] == config["param_scheduler"]
    with torch.device("meta"):
        learner = LocalContrastiveLearner(**learner_options(method, setting))
    assert method_of_learner(learner, method["epochs_per_unit"]) == method


def rule_of_name(file: Path) -> str:
    labels = {"simclr": "SimCLR", "gim": "GIM", "loco": "LoCo", "decoupled": "decoupled, K = 1"}
    return labels.get(file.name.split("_")[0], "")


@pytest.mark.repository
def test_ablations_have_methods_of_their_own():
    """Nothing is trained twice."""
    names = [f"ablations/{file.stem}" for file in CONFIGS if file.parent.name == "ablations"]
    names += [f"{rule}_resnet50_imagenet" for rule in ("simclr", "gim", "loco")]
    keys = [method_of(name)["key"] for name in names]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(("options", "label", "family"), [
    (dict(rule="loco", head=LOCO_HEAD), "LoCo", "loco"),
    (dict(rule="loco"), "LoCo, no conv block", "loco"),
    (dict(rule=[(0, 2), (0, 4), (2, 6), (4, 8)], head=LOCO_HEAD), "LoCo", "loco"),
    (dict(rule=[dict(start=0, end=8)]), "SimCLR", "simclr"),
    (dict(rule=[(0, 4), (2, 8)]), "units [0,4), [2,8)", "units"),
    (dict(rule=[dict(start=0, end=8, updates=(0, 3)), (3, 8)]), "units [0,8) updating [0,3), [3,8)", "units"),
    (dict(rule=dict(type="decoupled", cuts=[3, 5]), head=DECOUPLED_HEAD), "decoupled at 3, 5", "decoupled"),
    (dict(rule=dict(type="decoupled", k=8, window=2), head=DECOUPLED_HEAD), "decoupled, K = 8, window 2", "decoupled8"),
    (dict(rule="gim", epochs_per_unit=3), "GIM, one unit after the other", "gim"),
    (dict(rule="gim", objective=dict(type="NTXent", threshold=None)), "GIM", "gim"),
    (dict(rule="gim", objective=dict(type="NTXent", threshold=0.0, on="negatives")), "GIM, T = 0 on negatives", "gim"),
    (dict(rule="gim", objective=dict(type="NTXent", threshold=0.5, on="positives", average_over="kept")),
     "GIM, T = 0.5 on positives, mean over kept", "gim"),
    (dict(rule="loco", head=LOCO_HEAD, name="my rule"), "my rule", "loco"),
    (dict(rule="loco", head=LOCO_HEAD, objective="BarlowTwins"), "LoCo, Barlow Twins", "loco"),
    (dict(rule="gim", head=dict(out_channels=64, conv_blocks="expand"), objective=dict(type="BYOL", momentum=0.99)),
     "GIM, BYOL, momentum=0.99, 1x1 conv, out_channels=64", "gim"),
    (dict(rule="loco", head=LOCO_HEAD, weights=[1, 1, 0.5, 2]), "LoCo, weights 1, 1, 0.5, 2", "loco"),
])
def test_labels_of_options(options, label, family):
    """Rules by name, with options and as lists, heads, orders, thresholds and names."""
    method = describe_method(**{"stages": STAGES, **options})
    shown = shown_method(method)
    assert (method["label"], shown.label, shown.family, shown.key) == (label, label, family, method["key"])
    assert shown.subsampled == ("T = " in label)


def test_methods_that_differ_in_anything_have_keys_of_their_own(toy_loss):
    """And equal ones have the same, however they are written."""
    loco = dict(rule="loco", head=LOCO_HEAD)
    different = [
        loco, dict(rule="loco"), dict(loco, rule=dict(type="loco", window=3)),
        dict(loco, rule=dict(type="loco", res2_loss=False)),
        dict(loco, objective="VICReg"), dict(loco, objective=dict(type="VICReg", variance=1.0)),
        dict(loco, weights=[1, 1, 1, 2]), dict(loco, objective="VICReg", head=dict(conv_blocks=1, out_channels=64)),
        dict(loco, objective="ToyLoss"), dict(loco, objective=dict(type="ToyLoss", margin=2.0)),
        dict(loco, objective=dict(type="NTXent", temperature=0.2)), dict(loco, objective=dict(type="NTXent", threshold=0.0)),
        dict(loco, soft_sharing=dict(coefficient=1e-3)), dict(loco, soft_sharing=dict(coefficient=1e-2)),
        dict(loco, epochs_per_unit=1), dict(loco, name="mine"), dict(rule="gim", head=LOCO_HEAD),
    ]
    assert len({describe_method(**options)["key"] for options in different}) == len(different)
    alike = [
        dict(rule=dict(type="loco", window=2, res2_loss=True), head=dict(conv_blocks=1, downsample=True)),
        dict(rule=[(0, 2), (0, 4), (2, 6), (4, 8)], head=LOCO_HEAD, stages=STAGES),
        dict(loco, objective=dict(type="NTXent", temperature=0.1, on="both")), dict(loco, weights=[1, 1, 1, 1]),
    ]
    whole = [dict(rule="loco", objective=dict(type="NTXent", temperature=number)) for number in (1, 1.0)]
    assert len({describe_method(**options)["key"] for options in whole}) == 1
    assert {describe_method(**options)["key"] for options in alike} == {describe_method(**loco)["key"]}


def test_own_rules_and_objectives_have_their_own_names(monkeypatch, toy_loss):
    """Of what is registered outside the package, with the options that differ from their defaults."""
    monkeypatch.setitem(RULES, "top_down", lambda stages, depth=1: simclr_units(stages))
    plain, deep = (describe_method(rule) for rule in ("top_down", dict(type="top_down", depth=2)))
    assert (plain["label"], deep["label"], shown_method(deep).family) == ("top_down", "top_down, depth=2", "top_down")
    own = describe_method("gim", dict(type="ToyLoss", margin=2.0))
    assert (own["label"], own["loss"]) == ("GIM, Toy loss, margin=2", "Toy loss")
    assert describe_method("gim", "ToyLoss")["label"] == "GIM, Toy loss"


def test_learners_are_what_configs_describe():
    """The method that is made from a built learner is that of its options, with a name, units and soft sharing."""
    encoder = dict(type="resnet18", width=4)
    for options in (
        dict(rule=[dict(start=0, end=4, updates=(0, 2)), (2, 8)], method_name="mine"),
        dict(rule="gim", objective="MoCoV2", weights=[1, 2, 1, 1]),
        dict(rule="loco", head=LOCO_HEAD, soft_sharing=dict(coefficient=1e-3),
             objective=dict(type="NTXent", threshold=0.2)),
    ):
        method = method_of_learner(LocalContrastiveLearner(encoder, **options), 3)
        name = {"name": options.get("method_name")}
        described = {key: value for key, value in options.items() if key != "method_name"}
        assert method == describe_method(**described, **name, epochs_per_unit=3, stages=STAGES)
        rebuilt = LocalContrastiveLearner(**learner_options(method, dict(encoder=encoder)))
        assert method_of_learner(rebuilt, 3) == method
    with pytest.raises(ValueError, match="random"):
        learner_options(foreign_method("random"), dict(encoder=encoder))


def test_unique_labels_say_what_differs():
    """Labels that are unique already stay; repetitions of one method count once."""
    methods = [standard_method("loco"), standard_method("loco", dict(temperature=0.2)), standard_method("gim"),
               standard_method("loco")]
    labels = unique_labels(methods)
    assert [labels[method["key"]] for method in methods] == [
        "LoCo, temperature=0.1", "LoCo, temperature=0.2", "GIM", "LoCo, temperature=0.1"]
    named = [describe_method("loco", name="mine"), describe_method("gim", name="mine")]
    assert all(label.startswith("mine, ") for label in unique_labels(named).values())
    assert len(set(unique_labels(named).values())) == 2


def test_the_order_of_methods():
    """Random and supervised first, then the rules of LoCo's tables, then decoupled ones by K."""
    methods = [foreign_method("random"), foreign_method("supervised"), foreign_method("file", "theirs"),
               *map(standard_method, ("simclr", "gim", "loco", dict(type="loco", window=3))),
               *(standard_method(dict(type="decoupled", k=k)) for k in (4, 8, 16))]
    shown = list(map(shown_method, methods))
    shuffled = [*shown[4:], *shown[:4]]
    assert sorted(shuffled, key=lambda method: method.order) == shown
    own = Method("key", "own", "own rule")
    assert own.order > max(method.order for method in shown)


def test_differences_have_the_shortest_clear_names():
    """Of nested data; None is as good as left out."""
    one = dict(a=dict(type="x", size=1), b=dict(size=2, rest=None), units=[dict(start=0), dict(start=1)])
    other = dict(a=dict(type="y", size=3), b=dict(size=4), units=[dict(start=0), dict(start=2)])
    assert differences(one, [other]) == {"a.size": 1, "a.type": "x", "b.size": 2, "start": 1}
    assert differences(one, [one]) == {}


@pytest.mark.repository
def test_rules_of_one_setup_have_the_same_setting():
    """Methods are not settings: SimCLR, GIM and LoCo on the same data are compared column by column."""
    for setup in ("resnet18_cifar10", "resnet50_imagenet"):
        settings = [setting_of(f"{rule}_{setup}") for rule in ("simclr", "gim", "loco")]
        assert settings[0] == settings[1] == settings[2]


@pytest.mark.repository
@pytest.mark.parametrize("options", [
    dict(model__channels_last=False),
    dict(model__recompute="block"),
    dict(train_dataloader__dataset__device="cuda", train_dataloader__dataset__max_mib=10),
    dict(train_dataloader__dataset__data_root="/somewhere/else/cifar10"),
    dict(train_dataloader__num_workers=7, randomness__seed=3, work_dir="/tmp/run"),
    dict(data_preprocessor__min_scale=0.08, data_preprocessor__non_blocking=True),
    dict(optim_wrapper__optimizer__trust_coefficient=0.001),
    dict(model__objective__temperature=0.3, model__method_name="mine"),
])
def test_how_a_run_is_carried_out_methods_and_defaults_are_not_settings(options):
    """Memory layout, workers, folders above the data, the seed, and an option written out at its default."""
    assert setting_of(**options) == setting_of()


@pytest.mark.repository
@pytest.mark.parametrize("options, key", [
    (dict(data_preprocessor__size=40), "image_size"),
    (dict(data_preprocessor__min_scale=0.2), "views"),
    (dict(train_dataloader__dataset__source="folder"), "data"),
    (dict(train_dataloader__dataset__data_root="data/cifar10_small"), "data"),
    (dict(model__autocast=None), "precision"),
    (dict(model__encoder__width=16), "encoder"),
    (dict(train_dataloader__batch_size=64), "batch_size"),
    (dict(train_cfg__max_epochs=3), "epochs"),
    (dict(optim_wrapper__clip_grad=dict(max_norm=1.0)), "optimizer"),
    (dict(model__type="Jigsaw"), "learner"),
    (dict(model__strength=9.0), "learner"),
    (dict(custom_hooks=[dict(type="WarmRestarts", every=3)]), "hooks"),
])
def test_what_is_trained_on_is_a_setting(options, key):
    """A changed value is found under its key, and nowhere else."""
    base, other = setting_of(), setting_of(**options)
    assert [name for name in other if other[name] != base.get(name)] == [key]


@pytest.mark.repository
def test_no_machine_path_is_recorded():
    """Of absolute paths, of the data and of a source's files, only the last part is kept."""
    setting = setting_of("loco_resnet18_folder", train_dataloader__dataset__data_root="/home/somebody/photos",
                         train_dataloader__dataset__source=dict(type="file_list", file="/home/somebody/lists/a.txt"))
    assert (setting["data"]["root"], setting["data"]["source"]) == ("photos", {"type": "file_list", "file": "a.txt"})
    assert "somebody" not in json.dumps(setting)


@pytest.mark.repository
def test_files_have_the_identity_that_is_known_of_them():
    """That of their record, with how far it went; otherwise a name and the weights' hash."""
    identity = identity_of_config("pretrain/loco_resnet18_cifar10.py", epochs=9, seed=4)
    found = backbone_identity(dict(identity, epoch=3), "b.pth", "0" * 64, "resnet18")
    assert found == dict(identity, setting=dict(identity["setting"], epochs_done=3))
    assert backbone_identity(dict(identity, epoch=9), "b.pth", "0" * 64, "resnet18") == identity
    theirs, others = (backbone_identity({}, f"{name}.pth", "12" * 32, "resnet18") for name in "ab")
    assert (theirs["method"]["label"], theirs["setting"]["weights"]) == ("a", "12121212")
    assert theirs["method"]["key"] != others["method"]["key"]
    supervised = backbone_identity({}, "resnet50.pth", "12" * 32, dict(type="resnet18", stem="imagenet"), "supervised")
    assert (supervised["method"]["label"], supervised["repetition"]) == ("supervised", {})
    assert random_identity("resnet18", 3)["repetition"] == dict(seed=3)
    assert random_identity("resnet18", None)["repetition"] == {}


def test_names_of_data_sets():
    """By source where that is one set, otherwise by folder."""
    for source, name in (("cifar10", "cifar10"), (dict(type="cifar10"), "cifar10"), ("folder", "pets"),
                         (dict(type="file_list", file="a.txt"), "pets")):
        assert dataset_name(dict(source=source, root="pets")) == name
    assert dataset_name({}) == "images"  # a data set of the user's


@pytest.mark.repository
def test_orders_of_training():
    """One unit after the other, or all at once."""
    assert epochs_per_unit(config_of("ablations/review_sequential_gim")) is not None
    assert epochs_per_unit(dict(custom_hooks=[dict(type="ProgressBarHook")])) is epochs_per_unit({}) is None
    assert method_of("ablations/review_sequential_gim")["label"] == "GIM, one unit after the other"
