"""The record of a pretraining: recipe and settings of every config as plain data, without the machine that it ran on."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from pretrain.record import pretraining_record, pretraining_settings
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs/pretrain").rglob("*.py"))


def config_of(name: str, **options) -> dict:
    """A config of ``configs/pretrain`` as plain data, with overrides by dotted name."""
    config = Config.fromfile(str(ROOT / "configs/pretrain" / f"{name}.py"), import_custom_modules=False)
    config.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    return config.to_dict()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_a_record_of_plain_data(path):
    """JSON holds the record as it is; what tells pretrainings apart is in it, with the sizes of views and batch."""
    config = Config.fromfile(str(path), import_custom_modules=False).to_dict()
    record = pretraining_record(config, "0" * 64)
    assert json.loads(json.dumps(record)) == record
    settings = record["settings"]
    views = settings["data"].get("views") or settings["data"]["data_preprocessor"]
    assert isinstance(views["size"], int) and 0 < views["min_scale"] < 1
    assert settings["batch_size"] == config["train_dataloader"]["batch_size"]
    assert settings["epochs"] == record["max_epochs"] == config["train_cfg"]["max_epochs"]
    assert settings["temperature"] == config["model"]["temperature"]
    assert settings["precision"] == (config["model"].get("autocast") or "float32")
    assert settings["optim_wrapper"]["optimizer"].items() >= config["optim_wrapper"]["optimizer"].items()
    assert settings["param_scheduler"] == config["param_scheduler"]


def test_rules_of_one_setup_have_the_same_settings():
    """Recipes are no settings: SimCLR, GIM and LoCo on the same data are compared column by column."""
    for setup in ("resnet18_cifar10", "resnet50_imagenet_100e"):
        settings = [pretraining_settings(config_of(f"{rule}_{setup}")) for rule in ("simclr", "gim", "loco")]
        assert settings[0] == settings[1] == settings[2]


@pytest.mark.parametrize("options", [
    dict(model__channels_last=False),
    dict(model__recompute="blocks"),
    dict(train_dataloader__dataset__device="cuda", train_dataloader__dataset__max_mib=10),
    dict(train_dataloader__dataset__data_root="/somewhere/else/cifar10"),
    dict(train_dataloader__num_workers=7, randomness__seed=3, work_dir="/tmp/run"),
    dict(data_preprocessor__min_scale=0.08, data_preprocessor__non_blocking=True),
    dict(optim_wrapper__optimizer__trust_coefficient=0.001),
])
def test_how_a_run_is_carried_out_and_defaults_are_no_settings(options):
    """Memory layout, workers, folders above the data, the seed, and an option spelled out at its default."""
    config = config_of("loco_resnet18_cifar10", **options)
    assert pretraining_settings(config) == pretraining_settings(config_of("loco_resnet18_cifar10"))


@pytest.mark.parametrize("options, key", [
    (dict(data_preprocessor__size=40), "data"),
    (dict(train_dataloader__dataset__source="folder"), "data"),
    (dict(train_dataloader__dataset__data_root="data/cifar10_small"), "data"),
    (dict(model__temperature=0.2), "temperature"),
    (dict(model__threshold=0.3), "threshold"),
    (dict(model__subsampling=dict(threshold=0.3)), "subsampling"),
    (dict(model__autocast=None), "precision"),
    (dict(optim_wrapper__clip_grad=dict(max_norm=1.0)), "optim_wrapper"),
])
def test_what_is_trained_is_a_setting(options, key):
    """A changed value is found under its key, one of the model's that this project does not know yet included."""
    base, other = (pretraining_settings(config_of("loco_resnet18_cifar10", **changed)) for changed in ({}, options))
    assert [name for name in other if other[name] != base.get(name)] == [key]


def test_subsampling_is_recorded_with_its_defaults():
    """Spelled out or not they are the same setting, and without a threshold there is no subsampling."""
    named = [dict(threshold=0.0), dict(threshold=0.0, on="both", average_over="all"), dict(threshold=None, on="negatives")]
    plain, *settings = (pretraining_settings(config_of("loco_resnet18_cifar10", **options))["subsampling"]
                        for options in ({}, *(dict(model__subsampling=options) for options in named)))
    assert plain is None
    assert settings == [dict(threshold=0.0, on="both", average_over="all")] * 2 + [None]


def test_no_machine_path_is_recorded():
    """Of absolute paths, of the data and of a source's files, only the last part is kept."""
    config = config_of("loco_resnet18_folder", train_dataloader__dataset__data_root="/home/somebody/photos",
                       train_dataloader__dataset__source=dict(type="file_list", file="/home/somebody/lists/a.txt"))
    data = pretraining_settings(config)["data"]
    assert (data["root"], data["source"]) == ("photos", {"type": "file_list", "file": "a.txt"})
    assert "somebody" not in json.dumps(pretraining_record(config, "0" * 64))
