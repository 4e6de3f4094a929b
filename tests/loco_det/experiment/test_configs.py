"""Every cell of the LoCo paper's Tables 2 and 3 is a config of exactly the paper's numbers, and builds."""

from __future__ import annotations

import copy
import functools
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from torch import nn

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import MODELS

from loco_det.experiment.config import Split, detector_config, detector_tasks, split_config
from loco_det.experiment.experiment import DataDescription, _own_config, detection_protocol
from pretrain.encoders import build_encoder
from tests.conftest import ROOT

pytestmark = pytest.mark.repository
CONFIGS = ROOT / "configs"
ANY_BACKBONE = ("coco", "cityscapes", "coco10k", "coco1k", "coco_mini", "demo")
SMALL = sorted(path.stem.removeprefix("mask_rcnn_") for kind in ("demo", "coco_mini")
               for path in CONFIGS.glob(f"mask_rcnn_*_{kind}*.py"))

# What follows is written down from the paper (LoCo, sections 5.2 and 5.3) and, where it refers to mmdetection, from mmdet's
# configs, not computed from ours. Data set -> protocol:
PROTOCOLS: dict[str, dict[str, Any]] = {
    "coco": dict(
        loop=("ResumableTrainLoop", 12), batch=16, base_batch=16, lr=0.02, decay=([8, 11], "epochs"), end=12,
        train_scale=("Resize", (1333, 800)), test_scale=(1333, 800), box_loss="L1Loss",
        splits=("coco", 1, None, 0), num_train_images=118_287, norm_eval=True, sync_bn=False,
    ),
    "cityscapes": dict(
        loop=("ResumableTrainLoop", 64), batch=8, base_batch=8, lr=0.01, decay=([56], "epochs"), end=64,
        train_scale=("RandomResize", [(2048, 800), (2048, 1024)]), test_scale=(2048, 1024), box_loss="SmoothL1Loss",
        splits=("cityscapes", 1, None, 0), num_train_images=None, norm_eval=True, sync_bn=False,
    ),
    "coco10k": dict(
        loop=("ResumableIterTrainLoop", 60_000), batch=16, base_batch=16, lr=0.02, decay=([40_000, 53_333], "iterations"),
        end=60_000, train_scale=("RandomChoiceResize", [(1333, side) for side in (640, 672, 704, 736, 768, 800)]),
        test_scale=(1333, 800), box_loss="L1Loss",
        splits=("coco10k", 5, 10_000, 0), num_train_images=118_287, norm_eval=False, sync_bn=True,
    ),
    "coco1k": dict(
        loop=("ResumableIterTrainLoop", 15_000), batch=16, base_batch=16, lr=0.02, decay=([10_000, 13_333], "iterations"),
        end=15_000, train_scale=("RandomChoiceResize", [(1333, side) for side in (640, 672, 704, 736, 768, 800)]),
        test_scale=(1333, 800), box_loss="L1Loss",
        splits=("coco1k", 5, 1_000, 0), num_train_images=118_287, norm_eval=False, sync_bn=True,
    ),
}
EVERYWHERE = dict(
    optimizer=("SGD", 0.9, 1e-4), warm_up=("LinearLR", 0.001, 0, 500, "iterations"), gamma=0.1, flip=0.5,
    filter=dict(filter_empty_gt=True, min_size=32), sampler="AspectRatioSampler", detector="TransferMaskRCNN",
    box_head=("Shared4Conv1FCBBoxHead", 256, 1024), mask_head=("FCNMaskHead", 4, 256), new_layer_norm="SyncBN",
    neck_norm="SyncBN", box_head_norm="SyncBN", mask_head_norm="SyncBN", autocast=None, channels_last=False,
)
COCO_FILES = ("annotations/instances_train2017.json", "train2017", "annotations/instances_val2017.json", "val2017")
CITYSCAPES_FILES = (
    "annotations/instancesonly_filtered_gtFine_train.json", "leftImg8bit/train",
    "annotations/instancesonly_filtered_gtFine_val.json", "leftImg8bit/val",
)
BACKBONES = {  # part of the name -> file
    "random": None, "supervised": "resnet50-19c8e357.pth",
    **{rule: f"{rule}_resnet50_imagenet.pth" for rule in ("simclr", "gim", "loco")},
}
CELLS = {f"{name}_{data}": (data, file) for name, file in BACKBONES.items() for data in PROTOCOLS}
MMDET = {
    "coco": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "cityscapes": "mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py",
}


def new_norms(name: str) -> set[str]:
    """The normalisation of every layer that section 5.2 names; the demo has a smaller pyramid and mask head."""
    levels, mask_convs = (3, 2) if "demo" in name else (4, 4)
    neck = {f"neck.{part}.{i}.bn" for part in ("lateral_convs", "fpn_convs") for i in range(levels)}
    box = {f"roi_head.bbox_head.shared_convs.{i}.bn" for i in range(4)}
    return neck | box | {f"roi_head.mask_head.convs.{i}.bn" for i in range(mask_convs)}


@functools.cache  # resolving takes mmengine a third of a second
def resolved(name: str) -> Config:
    """The config ``configs/mask_rcnn_<name>.py``; not to be changed."""
    config = Config.fromfile(str(CONFIGS / f"mask_rcnn_{name}.py"), import_custom_modules=False)
    config.work_dir = "work_dirs/none"
    return config


@functools.cache
def run_config(name: str, **changes: Any) -> Config:
    """The config of a run on three classes; not to be changed."""
    config = Config(resolved(name).to_dict() | changes)
    with torch.device("meta"):  # the encoder is asked for its channels, not for numbers
        return split_config(config, Split(0, 0, Path("train.json"), 1, "0" * 64), Path("val.json"), ("a", "b", "c"))


def build_detector(name: str, encoder: str | None = None, **changes: Any) -> nn.Module:
    """The detector as a run would build it, but without its checkpoint and without numbers."""
    if encoder is None:
        model = copy.deepcopy(run_config(name, **changes).model)
    else:
        config = Config(copy.deepcopy(resolved(name).to_dict()))
        config.model.backbone.encoder = dict(type=encoder)
        with torch.device("meta"):
            model = ConfigDict(detector_config(config, ("a", "b", "c")))
    model.backbone.checkpoint = None
    init_default_scope("mmdet")
    with torch.device("meta"):
        return MODELS.build(model)


def modules_of(detector: nn.Module, kind: type | tuple[type, ...]) -> set[str]:
    """Names of the modules of a kind."""
    return {name for name, module in detector.named_modules() if isinstance(module, kind)}


def facts(config: Config) -> dict[str, Any]:
    """What the tables above say, read out of the resolved config of a run."""
    train, model, scheduler = config.train_dataloader, config.model, config.param_scheduler
    transforms = {transform.type: transform for transform in train.dataset.pipeline}
    resize = next(transform for name, transform in transforms.items() if "Resize" in name)
    test_resize = next(transform for transform in config.val_dataloader.dataset.pipeline if transform.type == "Resize")
    assert resize.keep_ratio and test_resize.keep_ratio
    warm_up, decay = scheduler
    assert (warm_up.type, decay.type, decay.begin) == ("LinearLR", "MultiStepLR", 0)
    unit = {True: "epochs", False: "iterations"}
    box, mask, optimizer = model.roi_head.bbox_head, model.roi_head.mask_head, config.optim_wrapper.optimizer
    protocol, pretrained = config.protocol, config.pretrained
    return dict(
        loop=(config.train_cfg.type, config.train_cfg.get("max_epochs", config.train_cfg.get("max_iters"))),
        batch=train.batch_size,
        base_batch=config.auto_scale_lr.enable and config.auto_scale_lr.base_batch_size,
        lr=optimizer.lr,
        optimizer=(optimizer.type, optimizer.momentum, optimizer.weight_decay),
        warm_up=(warm_up.type, warm_up.start_factor, warm_up.begin, warm_up.end, unit[warm_up.by_epoch]),
        decay=(decay.milestones, unit[decay.by_epoch]),
        gamma=decay.gamma,
        end=decay.end,
        train_scale=(resize.type, resize.get("scale") or resize.get("scales")),
        test_scale=test_resize.scale,
        flip=transforms["RandomFlip"].prob,
        filter=train.dataset.filter_cfg.to_dict(),
        sampler=train.sampler.type,
        files=(config.data.train_ann, config.data.train_images, config.data.val_ann, config.data.val_images),
        splits=(protocol.dataset, protocol.num_splits, protocol.split_size, protocol.seed),
        num_train_images=config.data.num_train_images,
        detector=model.type,
        encoder=model.backbone.encoder.to_dict(),
        frozen_stages=model.backbone.frozen_stages,
        norm_eval=model.backbone.norm_eval,
        sync_bn=model.backbone.get("sync_bn", False),
        pyramid=(model.backbone.get("out_stages"), model.backbone.get("out_strides")),
        method=pretrained.method,
        checkpoint=model.backbone.checkpoint,
        box_head=(box.type, box.conv_out_channels, box.fc_out_channels),
        box_loss=box.loss_bbox.type,
        mask_head=(mask.type, mask.num_convs, mask.conv_out_channels),
        new_layer_norm=config.new_layer_norm,
        neck_norm=model.neck.norm_cfg.type,
        box_head_norm=box.norm_cfg.type,
        mask_head_norm=mask.norm_cfg.type,
        autocast=model.get("autocast"),
        channels_last=model.get("channels_last", False),
    )


def test_every_cell_has_a_config():
    """Tables 2 and 3 on ResNet-50, random initialisation beside them, and nothing else but small and general ones."""
    files = CONFIGS.glob("mask_rcnn_*.py")
    assert {*CELLS, *SMALL, *ANY_BACKBONE} == {path.stem.removeprefix("mask_rcnn_") for path in files}


@pytest.mark.parametrize("name", CELLS)
def test_cell_has_the_papers_numbers(name):
    """The config that a run of a cell gets equals the tables above in every value of theirs."""
    data, file = CELLS[name]
    few_label_depth = 0 if name.startswith("random") else 1  # "conv1 and res2 are frozen except 'Random Init' entry"
    assert facts(run_config(name)) == EVERYWHERE | PROTOCOLS[data] | dict(
        files=CITYSCAPES_FILES if data == "cityscapes" else COCO_FILES,
        encoder=dict(type="resnet50"),
        frozen_stages="all" if data in ("coco", "cityscapes") else few_label_depth,
        pyramid=(("res2", "res3", "res4", "res5"), None),
        method=name.split("_")[0],
        checkpoint=file and f"backbones/{file}",
    )


@pytest.mark.parametrize("rule", ["simclr", "gim", "loco"])
def test_backbones_are_those_that_we_pretrain(rule):
    """The file's name is a pretraining config's, of the same rule and encoder."""
    config = resolved(f"{rule}_coco")
    stem = Path(config.pretrained.checkpoint).stem
    pretraining = Config.fromfile(str(CONFIGS / "pretrain" / f"{stem}.py"), import_custom_modules=False)
    assert pretraining.model.encoder == config.model.backbone.encoder
    assert pretraining.model.rule.type == config.pretrained.method == rule


def test_every_backbone_of_a_data_set_has_one_protocol():
    """What may be averaged or stand in one column, but for how much is frozen: random weights have nothing to freeze."""
    data, protocols = DataDescription(("thing",), 7, "train", "val"), {}
    for path in CONFIGS.glob("mask_rcnn_*.py"):
        config = resolved(path.stem.removeprefix("mask_rcnn_"))
        protocol = detection_protocol(_own_config(config, None, data), data.num_val_images)
        assert protocol.pop("frozen_stages") in (config.model.backbone.frozen_stages, "all")
        protocols.setdefault(config.protocol.dataset, []).append(protocol)
    assert {name: len(found) for name, found in protocols.items()} == dict(
        coco=6, cityscapes=6, coco10k=6, coco1k=6, coco_mini=5, demo=6)
    for found in protocols.values():
        assert all(protocol == found[0] for protocol in found)
    firsts = [found[0] for found in protocols.values()]
    assert all(one != other for one, other in itertools.combinations(firsts, 2))
    assert firsts[0]["config"]["data"]["val_sha256"] == "val" and firsts[0]["num_val_images"] == 7


@pytest.mark.parametrize(("encoder", "stages", "strides"), [
    (dict(type="resnet18"), ("res2", "res3", "res4", "res5"), None),
    (dict(type="resnet18", stem="small"), ("res2", "res3", "res4", "res5"), (4, 8, 16, 32)),
    (dict(type="presnet50"), ("res2", "res4", "res5", "res7"), (4, 8, 16, 32)),
])
def test_the_pyramid_follows_the_encoder(encoder, stages, strides):
    """Levels of the pyramid's strides, all stages frozen, and channels that fit: the detector runs."""
    config = copy.deepcopy(resolved("coco_mini"))
    config.model.backbone.update(encoder=encoder, frozen_stages="all")
    model = detector_config(config, ("a", "b"))
    assert (model["backbone"]["out_stages"], model["backbone"]["out_strides"]) == (stages, strides)
    init_default_scope("mmdet")
    detector = MODELS.build(ConfigDict(model))
    assert not any(parameter.requires_grad for parameter in detector.backbone.parameters())
    levels = detector.extract_feat(torch.zeros(1, 3, 64, 96))
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]


def test_tasks_are_those_of_the_heads():
    """Boxes alone, masks alone, a cascade's lists of heads, one stage; and a detector of neither."""
    both = resolved("coco").model.to_dict()
    assert detector_tasks(both) == ("bbox", "segm")
    assert detector_tasks(both | dict(roi_head=dict(both["roi_head"], mask_head=None))) == ("bbox",)
    assert detector_tasks(dict(roi_head=dict(bbox_head=[dict(), dict()], mask_head=[dict()]))) == ("bbox", "segm")
    assert detector_tasks(dict(bbox_head=dict(type="RetinaHead"))) == ("bbox",)
    assert detector_tasks(dict(mask_head=dict(type="SOLOHead"))) == ("segm",)
    assert detector_tasks(dict(panoptic_head=dict(type="MaskFormerHead"))) == ("segm",)
    with pytest.raises(ValueError, match="Neither"):
        detector_tasks(dict(type="Neither", rpn_head=dict()))


@pytest.mark.parametrize("data", ["coco", "cityscapes"])
def test_the_rest_is_mmdets(data):
    """Anchors, samplers, losses, pipelines and optimizer are those of mmdet's own config for the data set."""
    ours, mmdet = run_config(f"supervised_{data}"), get_config(MMDET[data])
    for part in ("rpn_head", "train_cfg", "test_cfg"):
        assert ours.model[part] == mmdet.model[part]
    assert _without(ours.model.data_preprocessor, "non_blocking") == mmdet.model.data_preprocessor.to_dict()
    assert _without(ours.model.neck, "norm_cfg") == mmdet.model.neck.to_dict()
    for part in ("bbox_roi_extractor", "mask_roi_extractor"):
        assert _without(ours.model.roi_head[part], "type") == _without(mmdet.model.roi_head[part], "type")
    for head in ("bbox_head", "mask_head"):
        different = ("norm_cfg", "num_classes", "type", "conv_out_channels")
        assert _without(ours.model.roi_head[head], *different) == _without(mmdet.model.roi_head[head], *different)
    assert ours.optim_wrapper == mmdet.optim_wrapper
    dataset = mmdet.train_dataloader.dataset
    for mine, theirs in ((ours.train_dataloader.dataset, dataset.get("dataset", dataset)),
                         (ours.val_dataloader.dataset, mmdet.val_dataloader.dataset)):
        loading = ("LoadImage", "LoadImageFromFile", "LoadAnnotations")
        pipelines = [[t for t in pipeline if t.type not in loading] for pipeline in (mine.pipeline, theirs.pipeline)]
        assert pipelines[0] == pipelines[1]


def _without(config: dict, *keys: str) -> dict:
    return {key: value for key, value in config.to_dict().items() if key not in keys}


def learning_rates(config: Config, iterations_per_epoch: int) -> list[float]:
    """The learning rate of every iteration, as mmengine's hook steps the schedulers."""
    settings = config.optim_wrapper.optimizer
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=settings.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(s, optimizer=optimizer, _scope_="mmengine")) for s in config.param_scheduler]
    rates = []
    for iteration in range(config.train_cfg.max_epochs * iterations_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (iteration + 1) % iterations_per_epoch == 0:
                scheduler.step()
    return rates


@pytest.mark.parametrize(("data", "repeats"), [("coco", 1), ("cityscapes", 8)])
def test_schedule_is_mmdets_iteration_by_iteration(data, repeats):
    """Also for Cityscapes, where mmdet repeats the set and we count its 64 epochs one by one."""
    mmdet = get_config(MMDET[data])
    assert mmdet.train_dataloader.dataset.get("times", 1) == repeats
    expected = learning_rates(mmdet, 100 * repeats)
    rates = learning_rates(resolved(f"loco_{data}"), 100)
    assert len(rates) == len(expected)
    assert rates == pytest.approx(expected, rel=1e-12)


RESNET, PRESNET = {"conv1", "bn1", "layer1"}, {"conv1", "bn1", "res2"}  # the stem and res2, in the encoders' own names


@pytest.mark.parametrize(("name", "encoder", "frozen"), [
    ("random_coco", "resnet50", RESNET | {"layer2", "layer3", "layer4"}),
    ("loco_cityscapes", "resnet50", RESNET | {"layer2", "layer3", "layer4"}),
    ("coco", "shufflenet_v2_50", {"conv1", "res2", "res3", "res4", "res5", "conv5"}),
    ("coco", "presnet50", PRESNET | {"res3", "res4", "res5", "res6", "res7"}),
    ("random_coco10k", "resnet50", set()),
    ("loco_coco10k", "resnet50", RESNET),
    ("loco_coco1k", "resnet50", RESNET),
    ("coco1k", "presnet50", PRESNET),
])
def test_sync_bn_is_in_every_layer_it_should_be_in(name, encoder, frozen):
    """Listed from the built model: after all convolutions of FPN, box and mask head, and all of a fine-tuned backbone.

    What is frozen, and nothing else, has no gradient and batch norm in eval mode.
    """
    detector = build_detector(name, encoder).train()
    with torch.device("meta"):
        norms = {f"backbone.encoder.{norm}" for norm in modules_of(build_encoder(encoder), nn.BatchNorm2d)}
    new = new_norms(name)
    assert modules_of(detector, nn.SyncBatchNorm) == (new | norms if name.endswith(("10k", "1k")) else new)
    assert {key.split(".")[2] for key, parameter in detector.named_parameters() if not parameter.requires_grad} == frozen
    for norm in norms | new:
        is_frozen = norm in norms and norm.split(".")[2] in frozen
        module = detector.get_submodule(norm)
        assert (module.training, module.weight.requires_grad) == (not is_frozen, not is_frozen), norm


def test_new_layers_without_norm():
    """mmdet's deconvolution, fully connected and output layers and the RPN carry no normalisation; all others do."""
    detector = build_detector("loco_coco")
    with_norm = {name.removesuffix("bn") + "conv" for name in new_norms("loco_coco")}
    learned = modules_of(detector, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    new = {name for name in learned if not name.startswith("backbone.")}
    assert new - with_norm == {
        "rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg",
        "roi_head.bbox_head.shared_fcs.0", "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg",
        "roi_head.mask_head.upsample", "roi_head.mask_head.conv_logits",
    }
    assert with_norm <= new


@pytest.mark.parametrize("name", ["loco_coco", "loco_coco1k", "loco_demo"])
@pytest.mark.parametrize("norm", ["GN", "none"])
def test_norm_of_the_new_layers_is_one_value(name, norm):
    """Group norm of 32 groups in SyncBN's place, on 256 and 64 channels, or nothing; the backbone's norms stay."""
    synced, changed = build_detector(name), build_detector(name, new_layer_norm=norm)
    batch_norm = nn.modules.batchnorm._BatchNorm
    assert modules_of(synced, batch_norm) - modules_of(changed, batch_norm) == new_norms(name)
    groups = modules_of(changed, nn.GroupNorm)
    if norm == "GN":
        assert {group.removesuffix("gn") + "bn" for group in groups} == new_norms(name)
        assert {changed.get_submodule(group).num_groups for group in groups} == {32}
    else:
        assert groups == set()
    for layer in new_norms(name):  # a bias where no normalisation has one
        assert (changed.get_submodule(layer.removesuffix("bn") + "conv").bias is None) == (norm == "GN")


def test_unknown_norm_is_refused():
    """With the values that there are."""
    with pytest.raises(ValueError, match="'BN'.*'SyncBN', 'GN' or 'none'"):
        run_config("loco_demo", new_layer_norm="BN")


@pytest.mark.parametrize("name", [*SMALL, "coco_mini", "demo"])
def test_small_configs_build(name):
    """SyncBN in all new layers, batches of 4 of one orientation in a loop that resumes."""
    detector, config = build_detector(name), run_config(name)
    assert modules_of(detector, nn.SyncBatchNorm) >= new_norms(name)
    assert (config.train_cfg.type, config.train_dataloader.batch_size) == ("ResumableIterTrainLoop", 4)
    assert config.train_dataloader.sampler == dict(type="AspectRatioSampler", batch_size=4)
    assert config.default_hooks.checkpoint.type == "AtomicCheckpointHook"


@pytest.mark.parametrize("name", [*CELLS, *SMALL, *ANY_BACKBONE])
def test_no_weights_come_from_elsewhere(name):
    """No init_cfg and no load_from of mmdet's survives: a detector trained with labels would make every result invalid."""
    def assert_no_weights(value: Any) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                assert key not in ("init_cfg", "load_from") or not child, (key, child)
                assert_no_weights(child)

    assert_no_weights(run_config(name).to_dict())
