"""Identities and records of evaluations, as tests need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from pretrain.encoders import build_encoder
from pretrain.eval.evaluate import accuracy_rows, evaluated
from pretrain.results.method import describe_method, epochs_per_unit, random_identity, setting_of_config
from pretrain.results.store import EVALUATION, new_record, write_record
from tests.conftest import ROOT

STAGES = ("res2", "res3", "res4", "res5")


def identity_of_config(
    config: str | Path, *, epochs: int | None = None, epoch: int | None = None, seed: int = 0, images: int | None = 50_000,
    **options: Any,
) -> dict[str, Any]:
    """The identity of a pretraining of a config, made by the functions that make the real ones.

    Args:
        config: complete; relative to ``configs/``.
        epochs: of the schedule; None for the config's.
        epoch: of the checkpoint; None for the end of the schedule.
        seed: of the pretraining.
        images: of the data set.
        **options: overrides of config values, by dotted name with ``__`` for dots.
    """
    resolved = Config.fromfile(str(ROOT / "configs" / config), import_custom_modules=False)
    resolved.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    plain = resolved.to_dict()
    plain["train_dataloader"]["dataset"].setdefault("data_root", "data")
    if epochs is not None:
        plain["train_cfg"]["max_epochs"] = epochs
    model, setting = plain["model"], setting_of_config(plain, images)
    if epoch is not None and epoch < setting["epochs"]:
        setting["epochs_done"] = epoch
    with torch.device("meta"):
        stages = build_encoder(model["encoder"]).stages
    method = describe_method(model["rule"], model.get("objective", "NTXent"), model.get("head"),
                             model.get("soft_sharing"), epochs_per_unit(plain), model.get("method_name"), stages)
    return {"method": method, "setting": setting, "repetition": {"seed": seed}}


def write_evaluation(
    path: Path,
    accuracy: float,
    identity: Mapping[str, Any],
    *,
    kind: str = "linear",
    dataset: str = "cifar10",
    stages: Sequence[str] = STAGES,
    seed: int = 0,
    train_accuracy: float | None = None,
    **options: Any,
) -> Path:
    """Writes the record of an evaluation whose last stage has this accuracy, and every one below a point less.

    Args:
        path: of the record; its folder is made.
        accuracy: top-1 in percent.
        identity: of the encoder, such as of :func:`identity_of_config`.
        kind: of the evaluation.
        dataset: a source that is called by its name.
        stages: bottom up.
        seed: of the evaluation.
        train_accuracy: top-1 on the training images of the last stage; None for none.
        **options: of the protocol, such as ``limit`` or ``epochs``.
    """
    below = {stage: len(stages) - 1 - place for place, stage in enumerate(stages)}
    accuracies = {stage: dict(top1=accuracy - less, top5=100.0,
                              train_top1=None if train_accuracy is None else train_accuracy - less)
                  for stage, less in below.items()}
    data = dict(source=dataset, root=dataset, train_split="train", test_split="test", fingerprint="0" * 64)
    record = new_record(EVALUATION, evaluated(identity, seed), {"name": kind, **options, "data": data},
                        accuracy_rows(accuracies, data, kind), encoder_file=dict(file="backbone.pth", sha256=str(path)),
                        stages=list(stages))
    write_record(path, record)
    return path


def write_random(path: Path, accuracy: float, encoder: str = "resnet50", seed: int = 0, **options: Any) -> Path:
    """Writes the record of an evaluation of an encoder as it is initialised."""
    return write_evaluation(path, accuracy, random_identity(encoder, seed), seed=seed, **options)
