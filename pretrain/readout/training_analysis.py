"""What a pretraining kept of its pairs, and what a step of it takes (Fournier et al., 2023, figure 5 and table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mmengine.config import Config

from pretrain.memory import method_options
from pretrain.readout.analysis_files import Analysis, record_analysis
from pretrain.readout.encoders import RANDOM, load_encoder, pretraining_image_size
from pretrain.readout.step_costs import RecordedStep, count_step, recorded_step
from pretrain.record import pretraining_record
from pretrain.training_log import read_training_log
from pretrain.work_dir import config_fingerprint

SHARES = ("kept_positive", "kept_negative")  # of the pairs, as the learner logs them, followed by _<unit>


def analyze_kept(file: str, out: str | None = None, resume: bool = False) -> dict[str, Any]:
    """The shares of positive and negative pairs that every unit kept during a pretraining (Fournier et al., 2023, figure 5).

    Args:
        file: a checkpoint beside the training log; what was logged after it is left out.
        out: file of the record; None to put it beside the checkpoint.
        resume: do not repeat what is finished.

    Returns:
        The record as it is written; docs/subsampling.md explains its fields.

    Raises:
        ValueError: the checkpoint is no pretraining's, or there is no log beside it, or it tells of no kept pairs.
    """
    origin = _pretraining_of(file, "kept")
    settings = dict(encoder=origin, seed=0)
    return record_analysis(Analysis("kept", file, settings, out=out, resume=resume),
                           lambda: _kept_pairs(Path(file), origin["meta"]))


def _kept_pairs(file: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    try:
        log = read_training_log(file.parent)
    except ValueError as error:
        raise ValueError(f"kept pairs are read from the training log beside {file}, but {error}; an exported backbone has "
                         "none beside it, the checkpoint that it was made of has") from error
    logged = [(record, epochs) for record, epochs in zip(log.records, log.progress(), strict=True)
              if record["iter"] <= meta["iter"] and any(key.startswith("kept_positive_") for key in record)]
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
        without data, see :mod:`pretrain.memory` and :mod:`pretrain.complexity`.

    Raises:
        ValueError: the file is no pretraining's; or as :func:`~pretrain.readout.step_costs.recorded_step`.
    """
    origin, recompute = _pretraining_of_config(file) if file.endswith(".py") else (_pretraining_of(file, "memory"), "none")
    try:
        step = recorded_step(origin["meta"], batch_size, image_size, recompute, precision)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    settings = dict(encoder=origin, batch_size=step.batch_size, image_size=step.image_size, recompute=step.recompute,
                    precision=step.precision, seed=0)
    variant = _other_sizes(step, origin["meta"])
    return record_analysis(Analysis("memory", file, settings, variant, out, resume), lambda: count_step(step).as_dict())


def _other_sizes(step: RecordedStep, meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a step is not as in its pretraining."""
    trained = meta["settings"]
    told = {f"batch{step.batch_size}": step.batch_size != trained["batch_size"],
            f"{step.image_size}px": step.image_size != pretraining_image_size(meta),
            step.precision: step.precision != trained["precision"]}
    return tuple(word for word, differs in told.items() if differs)


def _pretraining_of(file: str, what: str) -> dict[str, Any]:
    """The origin of a checkpoint's encoder, with the record of its pretraining."""
    wanted = f"--what {what} needs a checkpoint of tools/pretrain.py, with the record of a pretraining"
    if file == RANDOM:
        raise ValueError(f"{wanted}; a random encoder has none")
    _, origin = load_encoder(file, None, seed=0)
    if "rule" not in origin["meta"]:
        raise ValueError(f"{wanted}; {file} has none")
    return origin


def _pretraining_of_config(file: str) -> tuple[dict[str, Any], str]:
    """What the checkpoints of a config would have as their encoder's origin, and the config's mode of recomputation."""
    method_options(file)  # refuses what is no pretraining config
    config = Config.fromfile(file, import_custom_modules=False).to_dict()
    try:
        config["train_dataloader"]["dataset"].setdefault("data_root", "")
        meta = pretraining_record(config, config_fingerprint(config)[0])
    except KeyError as error:
        raise ValueError(f"{file} is only a part of a pretraining config: it has no {error}; pass one of configs/pretrain/"
                         ) from error
    del meta["git_revision"]  # nothing was trained
    origin = dict(file=Path(file).name, sha256=None, encoder=meta["encoder"], seed=None, meta=meta)
    return origin, config["model"].get("recompute", "none")
