"""Every shipped config resolves and builds, with the layers and the depth of freezing that the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import MODELS

from loco_det.experiment import Split, split_config
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT

DETECTION = sorted(ROOT.glob("configs/mask_rcnn_*.py"))
PRETRAINING = sorted(ROOT.glob("configs/pretrain/*.py"))


def resolved(path: Path) -> Config:
    config = Config.fromfile(str(path), import_custom_modules=False)
    config.work_dir = "work_dirs/none"
    return config


def build_detector(path: Path, classes=("a", "b", "c")):
    """The detector as a run would build it, without its checkpoint."""
    split = Split(0, 0, Path("ann.json"), 1, "0" * 64)
    config = split_config(resolved(path), split, Path("val.json"), classes)
    config.model.backbone.checkpoint = None
    init_default_scope("mmdet")
    return MODELS.build(config.model), config


def test_all_names_exist():
    """Five methods on four data sets."""
    names = {path.stem for path in DETECTION}
    methods, datasets = ("random", "supervised", "simclr", "gim", "loco"), ("coco", "coco10k", "coco1k", "demo")
    assert names >= {f"mask_rcnn_{m}_{d}" for m in methods for d in datasets}


@pytest.mark.parametrize("path", DETECTION, ids=lambda p: p.stem)
def test_detector_layers(path):
    """Class count from the data; norm in FPN, box and mask head's convolutions, none in the RPN head; frozen stages."""
    detector, config = build_detector(path)
    assert detector.roi_head.bbox_head.num_classes == detector.roi_head.mask_head.num_classes == 3
    norm = torch.nn.modules.batchnorm._BatchNorm
    for part, convolutions in (
        (detector.neck, 8), (detector.roi_head.bbox_head.shared_convs, 4), (detector.roi_head.mask_head.convs, 4)
    ):
        assert sum(isinstance(m, torch.nn.SyncBatchNorm) for m in part.modules()) == convolutions
    assert not any(isinstance(m, norm) for m in detector.rpn_head.modules())
    assert len(detector.roi_head.bbox_head.shared_fcs) == 1
    dataset = config.protocol.dataset
    if dataset in ("coco10k", "coco1k"):
        frozen = 0 if config.pretrained.method == "random" else 1
        assert any(isinstance(m, torch.nn.SyncBatchNorm) for m in detector.backbone.modules())
    else:
        frozen = 4
    assert detector.backbone.frozen_stages == frozen
    trained = [p.requires_grad for p in detector.backbone.parameters()]
    assert any(trained) == (frozen < 4) and all(trained) == (frozen == 0)


@pytest.mark.parametrize(("name", "iterations", "size"), [("coco10k", 60_000, 10_000), ("coco1k", 15_000, 1_000)])
def test_few_label_protocol(name, iterations, size):
    """LoCo, section 5.3: iterations, split sizes, five splits, multi-scale, batch 16 on 8 GPUs."""
    config = resolved(ROOT / f"configs/mask_rcnn_loco_{name}.py")
    assert (config.train_cfg.max_iters, config.protocol.split_size, config.protocol.num_splits) == (iterations, size, 5)
    resize = next(t for t in config.train_dataloader.dataset.pipeline if t.type == "RandomChoiceResize")
    assert resize.scales == [(1333, s) for s in (640, 672, 704, 736, 768, 800)]
    assert config.train_dataloader.batch_size * 8 == config.auto_scale_lr.base_batch_size == 16


@pytest.mark.parametrize("path", DETECTION, ids=lambda p: p.stem)
def test_no_weights_come_from_elsewhere(path):
    """No init_cfg and no load_from of mmdet's survives: a detector trained with labels would make every result invalid."""
    def leaves(value):
        if isinstance(value, dict):
            for key, child in value.items():
                assert key not in ("init_cfg", "load_from") or not child, (key, child)
                leaves(child)

    leaves(build_detector(path)[1].to_dict())


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda p: p.stem)
def test_pretraining_configs_build(path):
    """The learner builds, and its rule is the one in the file's name."""
    model = resolved(path).model.to_dict()
    assert model.pop("type") == "LocalContrastiveLearner"
    assert LocalContrastiveLearner(**model).units
    assert model["rule"]["type"] == path.stem.split("_")[0]
