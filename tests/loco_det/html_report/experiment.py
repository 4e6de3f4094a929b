"""A small experiment on disk for the tests of reports, written by what writes the real ones; nothing is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.visualization import LocalVisBackend

import loco_det.register  # noqa: F401  isort: skip
from loco_det.detection_config import Split, detector_config, split_config
from loco_det.evaluation.results import RunResults
from loco_det.experiment_inputs import use_data_root
from loco_det.hooks import RECORD_KEY
from pretrain.checkpoints import FORMAT, FORMAT_VERSION
from pretrain.readout.encoders import load_encoder
from pretrain.run import use_data_root as use_image_folder
from pretrain.work_dir import claim_work_dir, write_json
from tests.conftest import ROOT
from tests.loco_det.detection_runs import make_run
from tests.pretrain.readout.written import record_of_config, write_result

STARTED = "20260101_120000"
ENCODER = dict(type="resnet18", width=16, stem="stl")  # of checkpoints: a small one
UNITS = {"simclr": ("res5",), "gim": ("res2", "res3", "res4", "res5"), "loco": ("res2", "res3", "res4", "res5")}
LOG = """2026/01/01 12:00:00 - mmengine - INFO - System environment:
    sys.platform: linux
    Python: 3.11.7 (main) [GCC 12.2.0]
    CUDA available: True
    GPU 0,1: NVIDIA X100
    PyTorch: 2.12.1
2026/01/01 12:02:30 - mmengine - INFO - saved epoch_2.pth
"""


def write_pretraining(
    folder: Path, rule: str, images: Path, epochs: int = 5, total: int = 5, options: Mapping[str, Any] | None = None
) -> Path:
    """The work directory of a pretraining of the demo that has done ``epochs`` of ``total``; its checkpoints are empty.

    Args:
        folder: the work directory.
        rule: simclr, gim or loco.
        images: folder of images.
        epochs: with a checkpoint.
        total: of the schedule.
        options: overrides of config values by dotted name.
    """
    file = f"configs/pretrain/{rule}_resnet18_demo.py"
    config = Config.fromfile(str(ROOT / file), import_custom_modules=False)
    config.merge_from_dict({"train_cfg.max_epochs": total, **(options or {})})
    use_image_folder(config, str(images))
    claim_work_dir(folder, config.to_dict())
    config.config_file = file
    config.work_dir = str(folder)
    log = write_log(folder, config)
    for step in range(1, 4 * epochs + 1):
        losses = {f"loss_{unit}": 4 - step / 10 for unit in UNITS[rule]}
        accuracies = {f"accuracy_{unit}": step / 100 for unit in UNITS[rule]}
        rest = {"lr": 0.1 / step, "images_per_second": 50.0 + step, "epoch": (step + 3) // 4, "iter": step}
        log.add_scalars({"loss": sum(losses.values()), **losses, **accuracies, **rest}, step)
    for epoch in range(1, epochs + 1):
        (folder / f"epoch_{epoch}.pth").touch()
    return folder


def write_encoder(file: Path, meta: Mapping[str, Any]) -> None:
    """An exported backbone of random weights, with the record of a pretraining but for the encoder's size."""
    exported = dict(format=FORMAT, version=FORMAT_VERSION, encoder=ENCODER)
    encoder, _ = load_encoder("random", ENCODER, seed=len(str(meta["rule"])))
    torch.save({"state_dict": encoder.state_dict(), "meta": {**meta, **exported}}, file)


def write_log(folder: Path, config: Config) -> LocalVisBackend:
    """Writes mmengine's log and config of a run that took two and a half minutes."""
    (folder / STARTED).mkdir(parents=True, exist_ok=True)
    (folder / STARTED / f"{STARTED}.log").write_text(LOG)
    backend = LocalVisBackend(str(folder / STARTED / "vis_data"))
    backend.add_config(config)
    return backend


def demo_run(method: str, bbox: Sequence[float], requested: int | None = None) -> RunResults:
    """Results of a method on the demo's splits, by the AP of each that is finished."""
    epochs = None if method == "random" else 5
    return make_run(method, bbox, dataset="demo", encoder="resnet18", epochs=epochs, requested=requested)


def write_detection(folder: Path, run: RunResults, data: Path, errors: Mapping[int, str] | None = None) -> Path:
    """The work directory of a detection experiment of the demo, with a detector in its first finished split.

    Args:
        folder: the work directory.
        run: its results.
        data: the drawn data set.
        errors: traceback by number of a split that has failed.
    """
    config = Config.fromfile(str(ROOT / f"configs/mask_rcnn_{run.method}_demo.py"), import_custom_modules=False)
    use_data_root(config, str(data))
    config.protocol.num_splits = len(run.requested_splits)
    config.config_file, config.work_dir = f"configs/mask_rcnn_{run.method}_demo.py", str(folder)
    if run.pretrained is not None:
        config.pretrained.checkpoint = run.pretrained.path
    claim_work_dir(folder, config.to_dict())
    run.write(folder / "results.json")
    for index, result in run.splits.items():
        write_json(folder / f"split_{index}" / "result.json", asdict(result))
        write_json(folder / f"split_{index}" / "timing.json", {"training_seconds": 50.0, "evaluation_seconds": 10.0})
    for index, text in (errors or {}).items():
        (folder / f"split_{index}").mkdir(exist_ok=True)
        (folder / f"split_{index}" / "error.txt").write_text(text)
    if run.splits:
        _write_detector(config, folder, min(run.splits), data)
    return folder


def _write_detector(config: Config, folder: Path, index: int, data: Path) -> None:
    """A detector of random weights, some of which let it find something, as a split's run leaves it."""
    val = data / config.data.val_ann
    content = json.loads(val.read_text())
    (folder / "annotations_val.json").write_text(val.read_text())
    classes = [category["name"] for category in content["categories"]]
    split = Split(index, index, data / config.data.train_ann, 10, "ids")
    complete = split_config(config, split, folder / "annotations_val.json", classes)
    complete.dump(folder / f"split_{index}" / f"{STARTED}.py")
    write_log(folder / f"split_{index}", complete)
    torch.manual_seed(0)
    options = detector_config(config, classes)
    options["backbone"]["checkpoint"] = None
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(ConfigDict(options))
    for parameter in model.roi_head.bbox_head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    record = dict(method=config.pretrained.method, encoder=dict(type="resnet18"), classes=classes)
    torch.save({"state_dict": model.state_dict(), RECORD_KEY: record, "meta": {}},
               folder / f"split_{index}" / "epoch_0_iter_190.pth")


def write_experiment(folder: Path, data: Path) -> Path:
    """An experiment of which all is there: three pretrainings that are read out, and detectors on three backbones."""
    for rule in UNITS:
        work_dir = write_pretraining(folder / f"pretrain_{rule}", rule, data / "unlabeled2017")
        meta = record_of_config(f"pretrain/{rule}_resnet18_demo.py")
        write_encoder(work_dir / "epoch_5.pth", meta)
        (work_dir / "epoch_5.readout").mkdir()
        accuracy = 40.0 + 5 * list(UNITS).index(rule)
        write_result(work_dir / "epoch_5.readout" / "linear_cifar10.json", accuracy, meta, file="epoch_5.pth",
                     protocol=dict(epochs=100, lr=30.0, image_size=40))
    for method, bbox in {"random": [5.0, 6.0], "simclr": [12.5, 13.5], "loco": [9.0, 11.0]}.items():
        write_detection(folder / f"mask_rcnn_{method}", demo_run(method, bbox), data)
    return folder
