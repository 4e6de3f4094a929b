"""Records with made-up numbers, written by what writes the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.engine.work_dir import RECORD_NAME
from pretrain.results.method import foreign_method, standard_method
from pretrain.results.store import DETECTION, EVALUATION, measurement, new_record, write_record

SETTING = dict(
    encoder={"type": "resnet50"}, data={"source": "imagenet", "root": "imagenet"}, images=1_281_167, image_size=224,
    views={"blur": 0.5}, epochs=100, batch_size=4096, optimizer={"optimizer": {"type": "LARS"}}, schedule=None,
    precision="bfloat16",
)
PROTOCOL = {"name": "detection", "train_cfg": {"max_iters": 60_000}, "num_val_images": 5000, "frozen_stages": 1}
STAGES = ("res2", "res3", "res4", "res5")


def identity(method: str | Mapping[str, Any] = "loco", seed: int = 0, **setting: Any) -> dict[str, Any]:
    """The identity of a pretraining: a rule with its paper's head and objective, or a method of method.py."""
    if method in ("random", "supervised"):
        weights = {} if method == "random" else {"weights": "19c8e357"}
        setting = {"encoder": {"type": "resnet50"}, **weights, **setting}
        return dict(method=foreign_method(method), setting=setting, repetition={})
    content = method if isinstance(method, Mapping) and "key" in method else standard_method(method)
    return dict(method=content, setting={**SETTING, **setting}, repetition={"seed": seed})


def write_detection(
    folder: Path,
    of: Mapping[str, Any],
    values: Mapping[str, Sequence[float | None]],
    dataset: str = "coco10k",
    num_splits: int | None = None,
    protocol: Mapping[str, Any] = PROTOCOL,
) -> Path:
    """A detection experiment whose split ``i`` has the i-th of every metric's values; ``bbox_AP/cat`` is of one class."""
    finished = len(next(iter(values.values())))
    tasks = list(dict.fromkeys(metric.partition("_")[0] for metric in values))
    write_record(folder / RECORD_NAME, new_record(DETECTION, of, protocol, dataset=dataset, tasks=tasks,
                                                  num_splits=finished if num_splits is None else num_splits))
    for split in range(finished):
        rows = []
        for name, numbers in values.items():
            metric, _, class_name = name.partition("/")
            rows.append(measurement(dataset, "detection", metric, numbers[split], split=split,
                                    class_name=class_name or None))
        repetition = {**of["repetition"], "split": split}
        write_record(folder / f"split_{split}" / RECORD_NAME,
                     new_record(DETECTION, {**of, "repetition": repetition}, protocol, rows))
    return folder


def write_evaluation(
    path: Path, of: Mapping[str, Any], accuracy: float, kind: str = "linear", dataset: str = "imagenet",
    evaluation_seed: int = 0, **protocol: Any,
) -> Path:
    """An evaluation whose last stage has this accuracy, and every one below a point less than the one above."""
    rows = [measurement(dataset, kind, "top1", accuracy - (len(STAGES) - 1 - place), stage=stage)
            for place, stage in enumerate(STAGES)]
    of = {**of, "repetition": {**of["repetition"], "evaluation_seed": evaluation_seed}}
    write_record(path, new_record(EVALUATION, of, {"name": kind, **protocol}, rows))
    return path
