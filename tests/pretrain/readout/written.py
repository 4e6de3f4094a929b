"""Readout results on disk, as tests need them."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from mmengine.config import Config

from pretrain.run import PretrainingRecordHook
from tests.conftest import ROOT

STAGES = ("res2", "res3", "res4", "res5")


def pretraining_record(config: str | Path, epoch: int = 100, epochs: int = 100, **model: Any) -> dict[str, Any]:
    """The record of a pretraining in its exported backbone, written by the hook that writes the real ones.

    Every call is another run: its config has a hash of its own, as that of another seed has.
    """
    model = Config.fromfile(str(ROOT / "configs" / config), import_custom_modules=False).model.to_dict() | model
    hook = PretrainingRecordHook(secrets.token_hex(32), model["encoder"], model["rule"], model.get("soft_sharing"), None,
                                 model.get("decoder"), epochs)
    return hook.record | {"epoch": epoch, "iter": 1000 * epoch}


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
    limit: int | None = None,
    protocol: dict[str, Any] | None = None,
) -> Path:
    """A readout result whose last stage has this accuracy, and every one below a point less than the one above."""
    encoder = encoder or (meta or {}).get("encoder")
    data = dict(source=source, root=None, train_split="train", test_split="test", train_images=limit or 50000,
                test_images=10000, classes=10, limit=limit, undecodable=dict(train=0, test=0))
    record = dict(
        kind=kind,
        data=data,
        stages={stage: dict(top1=accuracy - (len(stages) - 1 - i), top5=100.0) for i, stage in enumerate(stages)},
        protocol=protocol or dict(epochs=100, lr=30.0),
        encoder=dict(file=file, sha256=sha256 or f"{path}", encoder=encoder, seed=None, meta=meta or {}),
        seed=seed,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def write_random(path: Path, accuracy: float, encoder: str = "resnet50", **options: Any) -> Path:
    """The readout of an encoder as it is initialised."""
    return write_result(path, accuracy, encoder={"type": encoder}, file="random", **options)
