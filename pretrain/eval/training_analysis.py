"""What a pretraining kept of its pairs, and what a step of it takes (Fournier et al., 2023, figure 5 and table 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from mmengine.config import Config

from pretrain.costs.memory import method_options
from pretrain.engine.checkpoints import read_backbone
from pretrain.eval.encoders import RANDOM, check_exists, pretraining_image_size
from pretrain.eval.results import record_result, result_file
from pretrain.eval.step_costs import RecordedStep, count_step, recorded_step
from pretrain.learner import LocalContrastiveLearner
from pretrain.results.method import backbone_identity, dataset_name, epochs_per_unit, method_of_learner, setting_of_config
from pretrain.results.store import ANALYSIS, measurement, new_record
from pretrain.results.training_log import read_training_log

SHARES = ("kept_positive", "kept_negative")  # of the pairs, as the learner logs them, followed by _<unit>
COUNTED = ("peak_bytes", "optimizer_bytes", "memory_bytes", "largest_unit_macs")


def analyze_kept(file: str, out: str | None = None, resume: bool = False) -> dict[str, Any]:
    """The shares of positive and negative pairs that every unit kept during a pretraining (Fournier et al., 2023, figure 5).

    Args:
        file: a checkpoint beside the training log; what was logged after it is left out.
        out: file of the record; None to put it beside the checkpoint.
        resume: do not repeat what is finished.

    Returns:
        The record as it is written; docs/subsampling.md explains its fields.

    Raises:
        ValueError: the checkpoint is not a pretraining's, there is no log beside it, or no kept pairs were logged.
    """
    pretraining = _pretraining_of(file, "kept")

    def measure() -> dict[str, Any]:
        details = _kept_pairs(Path(file), pretraining["iter"])
        dataset = _dataset(pretraining["identity"])
        rows = [measurement(dataset, "kept", share, value, stage=unit)
                for unit, shares in details["last_epoch"].items() for share, value in shares.items()]
        return dict(rows=rows, details=details)

    return _record(file, pretraining, {"name": "kept"}, (), out, resume, measure)


def _kept_pairs(file: Path, iterations: int) -> dict[str, Any]:
    try:
        log = read_training_log(file.parent)
    except ValueError as error:
        raise ValueError(f"kept pairs are read from the training log beside {file}, but {error}; an exported backbone has "
                         "none beside it, the checkpoint that it was made of has") from error
    logged = [(record, epochs) for record, epochs in zip(log.records, log.progress(), strict=True)
              if record["iter"] <= iterations and any(key.startswith("kept_positive_") for key in record)]
    if not logged:
        raise ValueError(f"{file.parent} logged no kept pairs up to {file.name}: it trained on all of them; pretrain with a "
                         "threshold, as configs/pretrain/subsampling/k*_subsampled_*.py do")
    records = [record for record, _ in logged]
    units = [unit for unit in log.units("kept_positive_") if any(f"kept_positive_{unit}" in record for record in records)]
    return {
        "units": units,
        "iterations": [record["iter"] for record in records],
        "epochs": [epochs for _, epochs in logged],
        **{share: {unit: [record.get(f"{share}_{unit}") for record in records] for unit in units} for share in SHARES},
        "last_epoch": {unit: _last_epoch(records, unit) for unit in units},
    }


def _last_epoch(records: Sequence[Mapping[str, Any]], unit: str) -> dict[str, float]:
    """Means of a unit's shares over the records of the last epoch that has any of it."""
    own = [record for record in records if f"kept_positive_{unit}" in record]
    last = [record for record in own if record["epoch"] == own[-1]["epoch"]]
    return {share: fmean(record[f"{share}_{unit}"] for record in last) for share in SHARES}


def analyze_memory(
    file: str,
    batch_size: int | None = None,
    image_size: int | None = None,
    out: str | None = None,
    resume: bool = False,
    precision: str | None = None,
) -> dict[str, Any]:
    """What a pretraining step takes on one device, and how its computation is spread (Fournier et al., 2023, table 1).

    Args:
        file: a checkpoint of a pretraining, or a pretraining's config file.
        batch_size: images a step, each in two views; None for the pretraining's.
        image_size: side of the views in pixels; None for the pretraining's.
        out: file of the record; None to put it beside the checkpoint, or below ``work_dirs/readout`` for a config file.
        resume: do not repeat what is finished.
        precision: of the forward passes, such as ``"bfloat16"``; None for the pretraining's.

    Returns:
        The record as it is written; docs/subsampling.md explains its fields. Nothing runs: all is counted on tensors
        without data, see :mod:`pretrain.costs.memory` and :mod:`pretrain.costs.complexity`.

    Raises:
        ValueError: the file is not a pretraining's; or as :func:`~pretrain.eval.step_costs.recorded_step`.
    """
    pretraining = _pretraining_of_config(file) if file.endswith(".py") else _pretraining_of(file, "memory")
    identity = pretraining["identity"]
    try:
        step = recorded_step(identity["method"], identity["setting"], batch_size, image_size, pretraining["recompute"],
                             precision)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    protocol = {"name": "memory", "batch_size": step.batch_size, "image_size": step.image_size, "recompute": step.recompute,
                "precision": step.precision}

    def measure() -> dict[str, Any]:
        counted = count_step(step)
        dataset = _dataset(identity)
        rows = [measurement(dataset, "memory", metric, counted[metric]) for metric in COUNTED]
        rows += [measurement(dataset, "memory", "unit_macs", macs, stage=unit)
                 for unit, macs in counted["unit_macs"].items()]
        return dict(rows=rows, details=counted)

    return _record(file, pretraining, protocol, _other_sizes(step, identity["setting"]), out, resume, measure)


def _other_sizes(step: RecordedStep, setting: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a step is not as in its pretraining."""
    words = {f"batch{step.batch_size}": step.batch_size != setting["batch_size"],
             f"{step.image_size}px": step.image_size != pretraining_image_size(setting),
             step.precision: step.precision != setting["precision"]}
    return tuple(word for word, differs in words.items() if differs)


def _record(
    file: str, pretraining: Mapping[str, Any], protocol: Mapping[str, Any], variant: Sequence[str], out: str | None,
    resume: bool, measure: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    identity = pretraining["identity"]
    path = out or result_file(f"analysis_{protocol['name']}", file, identity["setting"]["encoder"], None, 0, variant)
    record = new_record(ANALYSIS, identity, protocol, encoder_file=dict(file=Path(file).name, sha256=pretraining["sha256"]))
    return record_result(Path(path), record, resume, measure)


def _dataset(identity: Mapping[str, Any]) -> str:
    """What to call the data set of a pretraining."""
    return dataset_name(identity["setting"]["data"])


def _pretraining_of(file: str, what: str) -> dict[str, Any]:
    """Identity, ``sha256`` and iterations done of a checkpoint of a pretraining."""
    wanted = f"--what {what} needs a checkpoint of tools/pretrain.py, with the record of a pretraining"
    if file == RANDOM:
        raise ValueError(f"{wanted}; a random encoder has none")
    check_exists(Path(file))
    backbone = read_backbone(file)
    if "method" not in backbone.meta:
        raise ValueError(f"{wanted}; {file} has none")
    identity = backbone_identity(backbone.meta, file, backbone.sha256, backbone.encoder)
    return dict(identity=identity, sha256=backbone.sha256, iter=backbone.meta["iter"], recompute="none")


def _pretraining_of_config(file: str) -> dict[str, Any]:
    """What the checkpoints of a config would have as their identity, and the config's mode of recomputation."""
    options = method_options(file)
    config = Config.fromfile(file, import_custom_modules=False).to_dict()
    try:
        config["train_dataloader"]["dataset"].setdefault("data_root", "")
        setting = setting_of_config(config, None)
    except KeyError as error:
        raise ValueError(f"{file} is only a part of a pretraining config: it has no {error}; pass one of configs/pretrain/"
                         ) from error
    with torch.device("meta"):
        learner = LocalContrastiveLearner(config["model"]["encoder"], **options)
    identity = {"method": method_of_learner(learner, epochs_per_unit(config)), "setting": setting, "repetition": {}}
    return dict(identity=identity, sha256=None, recompute=config["model"].get("recompute", "none"))
