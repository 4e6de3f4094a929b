"""Readout results on disk, as tests need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pretrain.record import pretraining_record as make_record
from pretrain.work_dir import config_fingerprint
from tests.conftest import ROOT

STAGES = ("res2", "res3", "res4", "res5")


def pretraining_record(
    config: str | Path, epoch: int = 100, epochs: int = 100, *, seed: int = 0, options: dict[str, Any] | None = None,
    **model: Any,
) -> dict[str, Any]:
    """The record of a pretraining in its exported backbone, made by the function that makes the real ones.

    Args:
        config: relative to ``configs/``; what it lacks is as on ImageNet.
        epoch: of the checkpoint.
        epochs: of the schedule.
        seed: of the pretraining.
        options: overrides of config values by dotted name.
        **model: options of the model, each in the place of the config's.
    """
    resolved = Config.fromfile(str(ROOT / "configs/_base_/pretrain_imagenet.py"), import_custom_modules=False)
    resolved.merge_from_dict(Config.fromfile(str(ROOT / "configs" / config), import_custom_modules=False).to_dict())
    resolved.merge_from_dict({"train_cfg.max_epochs": epochs, "randomness.seed": seed, **(options or {})})
    plain = resolved.to_dict()
    plain["model"] |= model
    return _record_of(plain, epoch, seed)


def record_of_config(config: str, *, epoch: int | None = None, seed: int = 0, **options: Any) -> dict[str, Any]:
    """The record of a pretraining of a complete config, made by the function that makes the real ones.

    Args:
        config: relative to ``configs/``.
        epoch: of the checkpoint; None for the end of the schedule.
        seed: of the pretraining.
        **options: overrides of config values, by dotted name with ``__`` for dots.
    """
    resolved = Config.fromfile(str(ROOT / "configs" / config), import_custom_modules=False)
    resolved.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    plain = resolved.to_dict() | {"randomness": {"seed": seed}}
    return _record_of(plain, epoch or plain["train_cfg"]["max_epochs"], seed)


def _record_of(plain: dict[str, Any], epoch: int, seed: int) -> dict[str, Any]:
    return make_record(plain, config_fingerprint(plain)[0]) | {"seed": seed, "epoch": epoch, "iter": 1000 * epoch}


def write_result(
    path: Path,
    accuracy: float,
    meta: dict[str, Any] | None = None,
    *,
    kind: str = "linear",
    encoder: str | dict | None = None,
    file: str = "backbone.pth",
    sha256: str | None = None,
    seed: int = 0,
    stages: tuple[str, ...] = STAGES,
    source: str = "cifar10",
    root: str | None = None,
    fingerprint: str | None = None,
    limit: int | None = None,
    protocol: dict[str, Any] | None = None,
) -> Path:
    """A readout result whose last stage has this accuracy, and every one below a point less than the one above."""
    encoder = encoder or (meta or {}).get("encoder")
    data = dict(source=source, root=root or source, train_split="train", test_split="test", train_images=limit or 50000,
                test_images=10000, classes=10, limit=limit, undecodable=dict(train=0, test=0))
    if fingerprint is not None:  # results of older versions have none
        data["fingerprint"] = fingerprint
    record = dict(
        kind=kind,
        data=data,
        stages={stage: dict(top1=accuracy - (len(stages) - 1 - i), top5=100.0) for i, stage in enumerate(stages)},
        protocol=protocol or dict(epochs=100, lr=30.0),
        encoder=dict(file=file, sha256=sha256 or (None if file == "random" else f"{path}"), encoder=encoder,
                     seed=seed if file == "random" else None, meta=meta or {}),
        seed=seed,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def write_random(path: Path, accuracy: float, encoder: str = "resnet50", **options: Any) -> Path:
    """The readout of an encoder as it is initialised."""
    return write_result(path, accuracy, encoder={"type": encoder}, file="random", **options)
