"""Work directories as a pretraining leaves them, with made-up numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.results.method import standard_method
from pretrain.results.store import PRETRAINING, new_record, write_record

UNITS = {"simclr": ("res5",), "gim": ("res2", "res3", "res4", "res5"), "loco": ("res2", "res3", "res4", "res5")}


def draw_records(units: Sequence[str], iterations: Iterable[int], per_epoch: int, seed: int = 0) -> list[dict[str, Any]]:
    """Log records at iterations, counted from 1, with smoothly falling losses."""
    records = []
    for step in iterations:
        losses = {unit: 5 * math.exp(-step / 50) + 0.1 * place + 0.01 * seed for place, unit in enumerate(units)}
        records.append({
            "loss": sum(losses.values()), "lr": 0.1 / step, "images_per_second": 100.0 + step + seed,
            **{f"loss_{unit}": loss for unit, loss in losses.items()},
            **{f"accuracy_{unit}": 1 - loss / 6 for unit, loss in losses.items()},
            "iter": step, "epoch": 1 + (step - 1) // per_epoch, "step": step,
        })
    return records


def logged_iterations(epochs: int, per_epoch: int, interval: int) -> list[int]:
    """The iterations that mmengine's logger writes of: multiples of the interval, counted again in every epoch."""
    return [epoch * per_epoch + inner for epoch in range(epochs) for inner in range(interval, per_epoch + 1, interval)]


def write_log(work_dir: Path, records: Iterable[Mapping[str, Any]], start: str = "20260101_000000", end: str = "") -> Path:
    """Writes records as those of the run's start at a time; ``end`` stands after the last line."""
    file = work_dir / start / "vis_data" / "scalars.json"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + end)
    return work_dir


def draw_run(
    work_dir: Path, rule: str | Mapping[str, Any] = "loco", seed: int = 0, epochs: int = 2, max_epochs: int = 2,
    method: Mapping[str, Any] | None = None, **setting: Any,
) -> Path:
    """A work directory of a pretraining on ResNet-18 that has done ``epochs`` of ``max_epochs`` epochs.

    Args:
        work_dir: to write.
        rule: of the standard method.
        seed: of the run.
        epochs: done.
        max_epochs: of the schedule.
        method: instead of the standard one of the rule.
        setting: what it has otherwise than the usual.
    """
    identity = dict(method=method or standard_method(rule), repetition=dict(seed=seed),
                    setting=dict(encoder=dict(type="resnet18", width=16), epochs=max_epochs, batch_size=32) | setting)
    units = UNITS[rule if isinstance(rule, str) else rule["type"]]
    write_log(work_dir, draw_records(units, logged_iterations(epochs, 12, 5), 12, seed))
    write_record(work_dir / "run.json", new_record(PRETRAINING, identity, dict(name=PRETRAINING)))
    return work_dir
