"""Records of detection experiments, as ``tools/train_det.py`` leaves them, with made-up numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.engine.work_dir import RECORD_NAME
from pretrain.results.method import foreign_method, standard_method
from pretrain.results.store import DETECTION, measurement, new_record, write_record

Values = Sequence[float | None]
PROTOCOL = {"name": DETECTION, "num_val_images": 5000, "frozen_stages": 0, "config": {"train_cfg": {"max_iters": 60_000}}}


def identity(
    method: str | Mapping[str, Any], epochs: int | None = 100, encoder: str | Mapping = "resnet50", seed: int = 0,
    **setting: Any,
) -> dict[str, Any]:
    """The identity of a pretraining by the standard method of a rule, of random weights, or by another method."""
    known = foreign_method("random") if method == "random" else method
    known = standard_method(known) if isinstance(known, str) else known
    usual = dict(encoder=dict(type=encoder) if isinstance(encoder, str) else encoder)
    if "source" in known:
        return dict(method=known, setting=usual | setting, repetition={})
    return dict(method=known, setting=usual | dict(epochs=epochs, batch_size=64) | setting, repetition=dict(seed=seed))


def write_run(
    folder: Path,
    pretraining: Mapping[str, Any],
    bbox: Values,
    segm: Values | None = None,
    dataset: str = "coco10k",
    *,
    official: Values | None = None,
    tasks: Sequence[str] = ("bbox", "segm"),
    requested: int | None = None,
    by_class: Mapping[str, float] | None = None,
    protocol: Mapping[str, Any] | None = None,
    **content: Any,
) -> Path:
    """Writes a work directory of which split i has the AP at place i.

    Args:
        folder: the work directory.
        pretraining: of :func:`identity`.
        bbox: AP of boxes by split.
        segm: AP of masks; None for that of boxes.
        dataset: name of the data set.
        official: Cityscapes' own AP, if it has any.
        tasks: whose AP was measured.
        requested: number of splits; None for those that are given.
        by_class: AP of boxes by class, the same in each split.
        protocol: of the measurements; None for the usual one.
        content: what else is in the experiment's record.
    """
    values = {"bbox": bbox, "segm": segm or bbox} | ({} if official is None else {"official": official})
    tasks = [*tasks, *(["official"] if official is not None else [])]
    common: dict[str, Any] = dict(identity=pretraining, protocol=protocol or PROTOCOL, dataset=dataset, tasks=tasks)
    count = len(bbox) if requested is None else requested
    write_record(folder / RECORD_NAME, new_record(DETECTION, num_splits=count, **{**common, **content}))
    for split in range(len(bbox)):
        rows = [measurement(dataset, DETECTION, f"{task}_{metric}", value, split=split)
                for task in tasks for metric, value in dict(AP=values[task][split], AP50=50.0, AP75=50.0).items()]
        rows += [measurement(dataset, DETECTION, "bbox_AP", value, split=split, class_name=name)
                 for name, value in (by_class or {}).items()]
        of_split = {**pretraining, "repetition": {**pretraining["repetition"], "split": split}}
        record = new_record(DETECTION, **{**common, "identity": of_split}, rows=rows, num_train_images=10, num_val_images=7,
                            training_seconds=50.0, evaluation_seconds=10.0)
        write_record(folder / f"split_{split}" / RECORD_NAME, {**record, "duration_s": 60.0})
    return folder
