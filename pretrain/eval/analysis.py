"""Analyses of pretrained encoders and of their pretraining (Fournier et al., 2023).

What an encoder's features hold at every depth (figures 1b and 2), the pairs that its pretraining kept (figure 5), and what a
step of it takes (table 1). All write records as evaluations do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

import pretrain.engine.optimizers  # noqa: F401  (registers LARS)
from pretrain.costs.complexity import unit_macs
from pretrain.costs.memory import step_cost
from pretrain.costs.methods import method_options
from pretrain.distributed import comm
from pretrain.encoders import Encoder, build_encoder
from pretrain.engine.checkpoints import read_backbone
from pretrain.eval.data import load_unlabelled_images
from pretrain.eval.evaluate import (
    METRICS,
    Inputs,
    accuracy_rows,
    protocol_options,
    record_of,
    record_result,
    recorded_options,
    run_protocol,
)
from pretrain.eval.features import PooledFeatures, block_names, extract_features, frozen
from pretrain.eval.probes import StateFile
from pretrain.eval.spectrum import feature_spectrum
from pretrain.learner import LocalContrastiveLearner
from pretrain.local.units import build_units, unit_names
from pretrain.results.method import (
    RANDOM,
    backbone_identity,
    dataset_name,
    epochs_per_unit,
    learner_options,
    method_of_learner,
    setting_of_config,
)
from pretrain.results.store import ANALYSIS, measurement, new_record
from pretrain.results.training_log import read_training_log

SHARES = ("kept_positive", "kept_negative")  # of the pairs, as the learner logs them, followed by _<unit>
COUNTED = ("peak_bytes", "optimizer_bytes", "memory_bytes", "largest_unit_macs")


def analyze(what: str, files: Sequence[str], **options: Any) -> dict[str, Any]:
    """Analyses several encoders alike.

    Args:
        what: a key of :data:`ANALYSES`.
        files: of the encoders; ``"random"`` after another file is that file's encoder with random weights.
        options: of the analysis.

    Returns:
        ``{"what": ..., "runs": [record, ...]}``.

    Raises:
        ValueError: several results are to go to one file; or as the analysis.
    """
    if options.get("out") is not None and len(files) > 1:
        raise ValueError(f"--out is one file, but {len(files)} checkpoints have a result each; leave it out")
    runs: list[dict[str, Any]] = []
    for file in files:
        like = {}
        if file == RANDOM and runs and what in ("probes", "spectrum"):
            like = dict(encoder=runs[0]["setting"]["encoder"], image_size=runs[0]["protocol"]["image_size"])
        runs.append(ANALYSES[what](file, **{**like, **options}))
    return {"what": what, "runs": runs}


def analyze_probes(
    file: str, protocol: str = "adam", *, epochs: int | None = None, batch_size: int | None = None,
    train_split: str | None = None, test_split: str | None = None, **inputs: Any,
) -> dict[str, Any]:
    """Linear probes after every block of an encoder, from one forward pass (figure 2).

    Args:
        file: of the encoder.
        protocol: ``"adam"`` or ``"cached"``, see :data:`pretrain.eval.evaluate.PROTOCOLS`.
        epochs: of ``"adam"``.
        batch_size: images of a step of Adam, and images that are run through the encoder at once.
        train_split: None for the data set's own.
        test_split: None for the data set's own.
        **inputs: see :class:`~pretrain.eval.evaluate.Inputs`.

    Returns and raises as :func:`~pretrain.eval.evaluate.evaluate`.
    """
    method, options = protocol_options(protocol, epochs=epochs, batch_size=batch_size)
    inputs = Inputs(file, **inputs)
    encoder, origin = inputs.load_encoder()
    identity = origin["identity"]
    data = inputs.load_data(inputs.view_size(identity["setting"]), train_split, test_split)
    record = record_of(ANALYSIS, inputs, origin, {
        "name": "probes", "method": method.name, **recorded_options(method, options), "image_size": data.image_size,
    }, data.record)

    def measure(_: StateFile) -> dict[str, Any]:
        results, corrupt = run_protocol(method, options, encoder, tuple(block_names(encoder)), data, inputs.autocast)
        blocks = [{**block, **{key: value for key, value in results[block["name"]].items() if key not in METRICS}}
                  for block in _blocks(encoder, identity)]
        return dict(rows=accuracy_rows(results, data.record, "probes"), details=dict(blocks=blocks), corrupt=corrupt)

    return record_result(inputs, record, "analysis_probes", measure)


def _blocks(encoder: Encoder, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every block's place: index, name, stage, and whether a unit of its pretraining has its loss there."""
    try:
        units = build_units(learner_options(identity["method"], identity["setting"])["rule"], encoder.stages, True)
    except ValueError:  # not trained by this project, or by a rule that is not registered here
        units = []
    ends = {unit.end - 1 for unit in units}
    stages = {block: stage for stage, (start, end) in encoder.stages.items() for block in range(start, end)}
    return [dict(block=block, name=name, stage=stages[block], end_of_unit=block in ends)
            for name, block in block_names(encoder).items()]


def analyze_spectrum(
    file: str, points: str = "stages", *, split: str | None = None, batch_size: int = 256, **inputs: Any
) -> dict[str, Any]:
    """Spectra of an encoder's pooled features, from one forward pass and without labels (figure 1b).

    Args:
        file: of the encoder.
        points: ``"stages"`` or ``"blocks"``: after each of which.
        split: of the images; by default the data set's own test split, or all where there is none.
        batch_size: images that are run through the encoder at once, of all processes together.
        **inputs: see :class:`~pretrain.eval.evaluate.Inputs`; ``limit`` takes a random subset.

    Returns and raises as :func:`~pretrain.eval.evaluate.evaluate`.
    """
    inputs = Inputs(file, **inputs)
    encoder, origin = inputs.load_encoder()
    image_size = inputs.view_size(origin["identity"]["setting"])
    images, data = load_unlabelled_images(inputs.source, inputs.data_root, split, inputs.limit, inputs.seed, image_size)
    record = record_of(ANALYSIS, inputs, origin, dict(name="spectrum", points=points, image_size=image_size), data)

    def measure(_: StateFile) -> dict[str, Any]:
        names = tuple(encoder.stages if points == "stages" else block_names(encoder))
        device = next(encoder.parameters()).device
        with frozen(encoder):
            pooled = PooledFeatures(encoder, names, inputs.autocast).to(device).eval()
            extracted = extract_features(pooled, images, max(1, batch_size // comm.world_size()), inputs.loading_workers,
                                         device)
        spectra = {name: _spectrum(x) for name, x in extracted.features.items()}
        return dict(
            rows=[measurement(dataset_name(data), "spectrum", metric, value, stage=name)
                  for name, spectrum in spectra.items() for metric, value in spectrum.items() if isinstance(value, float)],
            details=dict(images=len(extracted.labels), points=[
                dict(name=name, block=pooled.blocks[name], **spectrum) for name, spectrum in spectra.items()]),
            corrupt=extracted.corrupt,
        )

    return record_result(inputs, record, "analysis_spectrum", measure)


def _spectrum(features: Tensor) -> dict[str, Any]:
    """The spectrum of features ``(N, C)`` as plain data."""
    found = feature_spectrum(features)
    return {"features": features.shape[1], **vars(found), "singular_values": found.singular_values.tolist()}


def analyze_kept(file: str, out: str | None = None, resume: bool = False) -> dict[str, Any]:
    """The shares of positive and negative pairs that every unit kept during a pretraining (figure 5).

    Args:
        file: a checkpoint beside the training log; what was logged after it is left out.
        out: file of the record; None to put it beside the checkpoint.
        resume: do not repeat what is finished.

    Raises:
        ValueError: the checkpoint is not a pretraining's, there is no log beside it, or no kept pairs were logged.
    """
    identity, sha256, iterations = _pretraining_of(file)
    record = new_record(ANALYSIS, identity, {"name": "kept"}, encoder_file=dict(file=Path(file).name, sha256=sha256))

    def measure(_: StateFile) -> dict[str, Any]:
        details = _kept_pairs(Path(file), iterations)
        rows = [measurement(dataset_name(identity["setting"]["data"]), "kept", share, value, stage=unit)
                for unit, shares in details["last_epoch"].items() for share, value in shares.items()]
        return dict(rows=rows, details=details)

    return record_result(Inputs(file, out=out, resume=resume), record, "analysis_kept", measure)


def _kept_pairs(file: Path, iterations: int) -> dict[str, Any]:
    log = read_training_log(file.parent)
    logged = [(record, epochs) for record, epochs in zip(log.records, log.progress(), strict=True)
              if record["iter"] <= iterations and any(key.startswith("kept_positive_") for key in record)]
    if not logged:
        raise ValueError(f"{file.parent} logged no kept pairs up to {file.name}: it trained on all of them; pretrain "
                         "with model.objective.threshold")
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
    file: str, *, batch_size: int | None = None, image_size: int | None = None, autocast: str | None = None,
    out: str | None = None, resume: bool = False,
) -> dict[str, Any]:
    """What a pretraining step takes on one device, and how its computation is spread (table 1).

    Nothing runs: all is counted on tensors without data, see :mod:`pretrain.costs.memory` and
    :mod:`pretrain.costs.complexity`.

    Args:
        file: a checkpoint of a pretraining, or a pretraining's config file.
        batch_size: images per step, each in two views; None for the pretraining's.
        image_size: side of the views in pixels; None for the pretraining's.
        autocast: type of the forward passes, such as ``"bfloat16"``; None for the pretraining's.
        out: file of the record; None to put it beside the checkpoint, or below ``work_dirs/eval`` for a config file.
        resume: do not repeat what is finished.

    Raises:
        ValueError: the file is not a pretraining's, no step trains the whole model, or the sizes do not fit.
    """
    if file.endswith(".py"):
        identity, sha256, recompute = _pretraining_of_config(file)
    else:
        identity, sha256, recompute = *_pretraining_of(file)[:2], "none"
    setting = identity["setting"]
    if identity["method"]["epochs_per_unit"] is not None:
        raise ValueError(f"{file} trains one unit after the other, so that no single step trains the whole model; pass a "
                         "pretraining that trains all units in every step")
    batch_size = setting["batch_size"] if batch_size is None else batch_size
    if batch_size < 2:
        raise ValueError(f"batch size is {batch_size}; a contrastive step needs at least 2 images")
    protocol = dict(name="memory", batch_size=batch_size, image_size=image_size or setting["image_size"],
                    recompute=recompute, precision=autocast or setting["precision"])
    record = new_record(ANALYSIS, identity, protocol, encoder_file=dict(file=Path(file).name, sha256=sha256))

    def measure(_: StateFile) -> dict[str, Any]:
        counted = count_step(learner_options(identity["method"], setting), setting["optimizer"]["optimizer"], protocol)
        dataset = dataset_name(setting["data"])
        rows = [measurement(dataset, "memory", metric, counted[metric]) for metric in COUNTED]
        rows += [measurement(dataset, "memory", "unit_macs", macs, stage=unit)
                 for unit, macs in counted["unit_macs"].items()]
        return dict(rows=rows, details=counted)

    return record_result(Inputs(file, out=out, resume=resume), record, "analysis_memory", measure)


def count_step(model: Mapping[str, Any], optimizer: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """Counts what a pretraining step of one process with the whole batch takes; nothing runs.

    Args:
        model: options of the learner.
        optimizer: mmengine's config of the optimizer.
        step: ``batch_size`` (images, each in two views), ``image_size``, ``recompute`` and ``precision``.

    Returns:
        The fields of :class:`~pretrain.costs.memory.StepCost`, with ``optimizer_bytes`` of the pretraining's own optimizer;
        ``memory_bytes``, peak and optimizer together; multiply-adds of every local unit for one image by its name,
        ``unit_macs`` (:func:`pretrain.costs.complexity.unit_macs`), and of the largest, ``largest_unit_macs``.
    """
    autocast = None if step["precision"] == "float32" else "bfloat16"  # float16 has the same sizes
    cost = step_cost(model["encoder"], model, batch_size=step["batch_size"], image_size=step["image_size"],
                     recompute=step["recompute"], autocast=autocast)
    with torch.device("meta"):
        blank = build_encoder(model["encoder"])
    units = build_units(model["rule"], blank.stages, allow_untrained=True)
    macs = dict(zip(unit_names(units, blank.stages), unit_macs(blank, units, step["image_size"]), strict=True))
    optimizer_bytes = numbers_kept(optimizer) * cost.optimizer_bytes  # which counts one number a parameter
    return {**asdict(cost), "optimizer_bytes": optimizer_bytes, "memory_bytes": cost.peak_bytes + optimizer_bytes,
            "unit_macs": macs, "largest_unit_macs": max(macs.values())}


def numbers_kept(optimizer: Mapping[str, Any]) -> int:
    """How many numbers an optimizer, given as mmengine's config, keeps for each of a parameter: 2 for Adam, 1 for LARS."""
    weight = nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.ones_like(weight)
    built = OPTIMIZERS.build({**optimizer, "params": [weight], "lr": 0.1})
    built.step()
    return sum(value.numel() for value in built.state[weight].values() if torch.is_tensor(value)) // weight.numel()


def _pretraining_of(file: str) -> tuple[dict[str, Any], str, int]:
    """Identity, SHA-256 and iterations done of a checkpoint of a pretraining."""
    backbone = None if file == RANDOM else read_backbone(file)
    if backbone is None or "method" not in backbone.meta:
        raise ValueError(f"{file} has no record of a pretraining; pass a checkpoint of tools/pretrain.py")
    identity = backbone_identity(backbone.meta, file, backbone.sha256, backbone.encoder)
    return identity, backbone.sha256, backbone.meta["iter"]


def _pretraining_of_config(file: str) -> tuple[dict[str, Any], None, str]:
    """What the checkpoints of a config would have as their identity, no SHA-256, and the config's mode of recomputation."""
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
    return identity, None, config["model"].get("recompute", "none")


ANALYSES = {"probes": analyze_probes, "spectrum": analyze_spectrum, "kept": analyze_kept, "memory": analyze_memory}
