"""The record of a pretraining: which encoder, trained how, on what. It is in every checkpoint and exported backbone."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from pretrain.checkpoints import RECORD_KEY
from pretrain.data.batched_views import BatchedTwoViews
from pretrain.data.dataset import TwoViewImages
from pretrain.data.resident import ResidentImages
from pretrain.data.synthetic_scenes import SyntheticConfig
from pretrain.data.views import TwoViews
from pretrain.learner import LocalContrastiveLearner
from pretrain.losses import SubsampledNTXentLoss
from pretrain.methods import epochs_per_unit
from pretrain.optimizers import LARS
from pretrain.work_dir import EXECUTION_KEYS, git_revision

RECIPE_KEYS = frozenset({"encoder", "rule", "decoder", "soft_sharing"})  # of the model, beside its settings
# How the model and the data are held in memory and computed with, not what is trained.
EXECUTION_OPTIONS = EXECUTION_KEYS | {"channels_last", "compile", "recompute", "allow_untrained", "device", "max_mib",
                                       "non_blocking"}
# What the options of a config's ``type`` are given to, for their defaults.
TAKES_OPTIONS = {
    "LocalContrastiveLearner": LocalContrastiveLearner,
    "TwoViewImages": TwoViewImages,
    "ResidentImages": ResidentImages,
    "BatchedTwoViewsPreprocessor": BatchedTwoViews,
    "LARS": LARS,
}


@HOOKS.register_module()
class PretrainingRecordHook(Hook):
    """Writes into every checkpoint what :func:`pretrain.checkpoints.export_backbone` passes on.

    Args:
        record: what :func:`pretraining_record` returned.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = json.loads(json.dumps(record))  # ConfigDict -> dict

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """See :class:`mmengine.hooks.Hook`."""
        meta = checkpoint["meta"]  # its seed is the run's, also where the config leaves it to be drawn
        progress = {"seed": meta["seed"], "epoch": meta["epoch"], "iter": meta["iter"]}
        checkpoint[RECORD_KEY] = {**self.record, **progress, "num_images": len(runner.train_dataloader.dataset)}


def pretraining_record(config: Mapping[str, Any], config_sha256: str) -> dict[str, Any]:
    """What a run of a config trains.

    Args:
        config: the resolved config of a pretraining as plain data.
        config_sha256: its fingerprint, see :func:`pretrain.work_dir.config_fingerprint`.

    Returns:
        Plain data: ``rule``, ``encoder``, ``config_sha256``, ``git_revision``, ``max_epochs`` (of the whole schedule),
        ``settings`` (see :func:`pretraining_settings`), and where the config has them ``decoder``, ``soft_sharing`` and
        ``epochs_per_unit`` (where units are trained one after the other). Checkpoints add ``seed``, ``epoch``,
        ``iter`` and ``num_images``.
    """
    model = config["model"]
    optional = dict(
        soft_sharing=model.get("soft_sharing"),
        epochs_per_unit=epochs_per_unit(config),
        decoder=model.get("decoder"),
    )
    return {
        "rule": model["rule"],
        "encoder": model["encoder"],
        "config_sha256": config_sha256,
        "git_revision": git_revision(),
        "max_epochs": config["train_cfg"]["max_epochs"],
        "settings": pretraining_settings(config),
        **{key: value for key, value in optional.items() if value is not None},
    }


def pretraining_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for two pretrainings of the same recipe to be repetitions of each other, but for their seeds.

    Options at their defaults are spelled out, and how a run is carried out is left out, as are folders of this machine.

    Args:
        config: the resolved config of a pretraining as plain data.

    Returns:
        Plain data: ``data`` (type of data set, source, split, ``root``: the folder's name, views and image size),
        ``batch_size`` (of all processes together), ``optim_wrapper``, ``param_scheduler``, ``epochs``, ``precision``, and
        what else the model has, such as ``temperature`` and ``subsampling`` (None where all pairs are kept).
    """
    model = _with_defaults(config["model"])
    model["subsampling"] = _subsampling_settings(model.get("subsampling"))
    told_elsewhere = RECIPE_KEYS | {"type", "data_preprocessor", "autocast"}
    settings = {
        "data": _data_settings(config),
        "batch_size": config["train_dataloader"]["batch_size"],
        "optim_wrapper": config["optim_wrapper"] | {"optimizer": _with_defaults(config["optim_wrapper"]["optimizer"])},
        "param_scheduler": config.get("param_scheduler"),
        "epochs": config["train_cfg"]["max_epochs"],
        "precision": model.get("autocast") or "float32",
        **{key: value for key, value in _without_execution(model).items() if key not in told_elsewhere},
    }
    return json.loads(json.dumps(settings))


def _data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    data = _with_defaults(config["train_dataloader"]["dataset"])
    data["root"] = Path(data.pop("data_root")).name
    if isinstance(data.get("source"), Mapping):
        data["source"] = {key: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
                          for key, value in data["source"].items()}
    if "views" in data:
        data["views"] = _with_defaults(data["views"], TwoViews)
    preprocessor = config["model"].get("data_preprocessor") or config.get("data_preprocessor")
    if preprocessor and preprocessor["type"] != "BaseDataPreprocessor":  # which is there without being named, too
        data["data_preprocessor"] = _without_execution(_with_defaults(preprocessor))
    if "synthetic_data" in config:
        data["synthetic_data"] = _with_defaults(config["synthetic_data"], SyntheticConfig)
        data["synthetic_data"].pop("root", None)
    return _without_execution(data)


def _subsampling_settings(options: Any) -> Any:
    if not isinstance(options, Mapping):  # None, or what the learner will refuse
        return options
    if options.get("threshold") is None:  # plain NT-Xent, whatever the other options
        return None
    return _with_defaults(options, SubsampledNTXentLoss)


def _with_defaults(options: Mapping[str, Any], make: Callable | None = None) -> dict[str, Any]:
    make = make or TAKES_OPTIONS.get(options.get("type"))
    parameters = inspect.signature(make).parameters.values() if make else ()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(options)


def _without_execution(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in EXECUTION_OPTIONS}
