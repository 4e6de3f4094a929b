"""A small experiment on disk for the tests of reports, written by what writes the real ones; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import loco_det.register  # noqa: F401  isort: skip
from loco_det.experiment.experiment import DataDescription, _own_config
from loco_det.experiment.inputs import use_data_root
from pretrain.engine.work_dir import RECORD_NAME, config_fingerprint, init_work_dir, write_json
from pretrain.results.method import foreign_method
from pretrain.results.store import DETECTION, PRETRAINING, new_record, read_record
from tests.conftest import DEMO_ENCODER, ROOT
from tests.loco_det.detection_runs import write_run
from tests.loco_det.experiment.test_evaluate import build_detector
from tests.pretrain.eval.written import identity_of_config, write_evaluation
from tests.pretrain.synthetic_logs import UNITS, write_log


def edit(file: Path, **values: Any) -> None:
    """Replaces values of a record."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def demo_identity(rule: str, **options: Any) -> dict[str, Any]:
    """The identity of a pretraining of the demo; options as for ``identity_of_config``."""
    return identity_of_config(f"pretrain/{rule}_resnet18_demo.py", images=80, **options)


def write_pretraining(folder: Path, rule: str, images: Path, epochs: int = 5, total: int = 5, **options: Any) -> Path:
    """The work directory of a pretraining of the demo that has done ``epochs`` of ``total``; its checkpoints are empty.

    Args:
        folder: the work directory.
        rule: simclr, gim or loco.
        images: folder of images.
        epochs: with a checkpoint.
        total: of the schedule.
        options: as for :func:`demo_identity`.
    """
    argv = ["tools/pretrain.py", f"configs/pretrain/{rule}_resnet18_demo.py", "--data-root", str(images), "--work-dir",
            str(folder), "--resume"]
    record = new_record(PRETRAINING, demo_identity(rule, epochs=total, **options), dict(name=PRETRAINING),
                        data_root=str(images), argv=argv)
    init_work_dir(folder, dict(train_cfg=dict(max_epochs=total)), {**record, "duration_s": 150.0})
    lines = []
    for step in range(1, 4 * epochs + 1):
        losses = {f"loss_{unit}": 4 - step / 10 for unit in UNITS[rule]}
        accuracies = {f"accuracy_{unit}": step / 100 for unit in UNITS[rule]}
        rest = {"lr": 0.1 / step, "images_per_second": 50.0 + step, "epoch": (step + 3) // 4, "iter": step}
        lines.append({"loss": sum(losses.values()), **losses, **accuracies, **rest})
    write_log(folder, lines)
    for epoch in range(1, epochs + 1):
        (folder / f"epoch_{epoch}.pth").touch()
    return folder


def write_detection(
    folder: Path, method: str, bbox: Sequence[float | None], data: Path, requested: int | None = None,
    errors: Mapping[int, str] | None = None, detector: bool = True, **options: Any,
) -> Path:
    """The work directory of a detection experiment of the demo.

    Args:
        folder: the work directory.
        method: of the backbone: ``random`` or a rule.
        bbox: AP of each split that is finished.
        data: the synthetic data set.
        requested: number of splits; None for those that are finished.
        errors: traceback by number of a split that has failed.
        detector: whether its first split has one.
        options: further ones of :func:`tests.loco_det.detection_runs.write_run`, or ``identity`` instead of the usual.
    """
    file = f"configs/mask_rcnn_{method}_demo.py"
    config = Config.fromfile(str(ROOT / file), import_custom_modules=False)
    use_data_root(config, str(data))
    val = data / config.data.val_ann
    classes = [category["name"] for category in json.loads(val.read_text())["categories"]]
    own = config_fingerprint(_own_config(config, None, DataDescription(tuple(classes), 6, "train", "val")))[1]
    content = dict(dataset="demo", classes=classes, data_root=str(data), config=own, backbone=None,
                   argv=["tools/train_det.py", file, "--work-dir", str(folder), "--resume"])
    if method == "random":
        identity = dict(method=foreign_method("random"), setting=dict(encoder=DEMO_ENCODER), repetition={})
    else:
        identity = demo_identity(method)
        content["backbone"] = dict(path=f"{method}.pth", sha256="ab" * 32, argv=[
            "tools/export_backbone.py", f"pretrain_{method}/epoch_5.pth", f"{method}.pth"])
    write_run(folder, options.pop("identity", identity), bbox, requested=requested, **{**content, **options})
    for index, text in (errors or {}).items():
        (folder / f"split_{index}").mkdir(exist_ok=True)
        (folder / f"split_{index}" / "error.txt").write_text(text)
    if bbox and detector:
        (folder / "annotations_val.json").write_text(val.read_text())
        record = dict(read_record(folder / RECORD_NAME).content)
        weights = build_detector(config, classes).state_dict()
        torch.save({"state_dict": weights, DETECTION: record, "meta": {}}, folder / "split_0" / "epoch_0_iter_190.pth")
    return folder


def write_linear(work_dir: Path, accuracy: float, identity: Mapping[str, Any]) -> Path:
    """The record of a linear evaluation of a work directory's last checkpoint."""
    file = write_evaluation(work_dir / "epoch_5.eval" / "linear_cifar10.json", accuracy, identity)
    edit(file, argv=["tools/evaluate.py", str(work_dir / "epoch_5.pth"), "--data", "cifar10"], duration_s=30.0)
    return file


def write_experiment(folder: Path, data: Path) -> Path:
    """An experiment of which all is there: three pretrainings that are evaluated, and detectors on three backbones."""
    for place, rule in enumerate(UNITS):
        identity = demo_identity(rule)
        work_dir = write_pretraining(folder / f"pretrain_{rule}", rule, data / "unlabeled2017")
        write_linear(work_dir, 40.0 + 5 * place, identity)
    for method, bbox in {"random": [5.0, 6.0], "simclr": [12.5, 13.5], "loco": [9.0, 11.0]}.items():
        write_detection(folder / f"mask_rcnn_{method}", method, bbox, data, by_class={"cat": 7.0, "<dog>": 8.0})
    write_json(folder / "ap_table.json", {"rows": []})  # another program's
    return folder
