"""Results of detection runs for the tests of AP tables: built in memory, and written as work directories."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loco_det.evaluation.results import METRICS, PretrainedBackbone, RunResults, SplitResult
from loco_det.published import VAL_IMAGES
from pretrain.work_dir import claim_work_dir

Values = Sequence[float | None]


def make_run(
    method: str,
    bbox: Values,
    segm: Values | None = None,
    dataset: str = "coco10k",
    *,
    encoder: str = "resnet50",
    epochs: int | None = None,
    official: Values | None = None,
    requested: int | None = None,
    images: str = "images",
    num_val_images: int | None = None,
    val_sha256: str = "val",
) -> RunResults:
    """A run whose split i has box AP ``bbox[i]``, mask AP ``segm[i]`` (by default the same), and official AP if given."""
    splits = {
        i: SplitResult(
            bbox=dict.fromkeys(METRICS, 50.0) | {"AP": box},
            segm=dict.fromkeys(METRICS, 50.0) | {"AP": mask},
            official=None if official is None else {"AP": official[i], "AP50": 50.0},
            num_train_images=10,
            image_ids_sha256=f"{images} {i}",
            num_val_images=num_val_images or VAL_IMAGES.get(dataset, 7),
            val_sha256=val_sha256,
            seed=i,
        )
        for i, (box, mask) in enumerate(zip(bbox, segm or bbox, strict=True))
    }
    pretrained = None if method == "random" else PretrainedBackbone(f"{method}.pth", "ab" * 32, method, epochs)
    wanted = list(range(len(bbox) if requested is None else requested))
    return RunResults(method, dataset, encoder, "configs/x.py", "0" * 64, pretrained, wanted, splits)


def detector_settings() -> dict[str, Any]:
    """The part of a resolved config that runs on one data set must share, and a little more."""
    return dict(
        train_cfg=dict(type="ResumableIterTrainLoop", max_iters=60_000),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02)),
        param_scheduler=[dict(type="LinearLR", end=500), dict(type="MultiStepLR", milestones=[40_000, 54_000])],
        new_layer_norm="SyncBN",
        train_dataloader=dict(batch_size=16, num_workers=2),
        data=dict(root="/data", supercategories=False),
        protocol=dict(dataset="coco10k", num_splits=5),
        model=dict(backbone=dict(encoder="resnet50")),
    )


def write_run(folder: Path, run: RunResults, settings: dict[str, Any] | None = None) -> RunResults:
    """Writes a work directory as ``tools/train_det.py`` leaves it, and reads its results again."""
    claim_work_dir(folder, detector_settings() if settings is None else settings)
    run.write(folder / "results.json")
    return RunResults.read(folder / "results.json")


def write_runs(folder: Path, runs: Sequence[RunResults]) -> Path:
    """Writes each run into a work directory of its own below the folder."""
    for run in runs:
        name = f"{run.method}_{run.encoder}_{run.pretraining_epochs}_{run.dataset}"
        write_run(folder / hashlib.sha256(name.encode()).hexdigest()[:12], run)
    return folder
