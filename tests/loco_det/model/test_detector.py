"""Precision and layout of the detector: the same losses and predictions, up to what the precision allows."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import MODELS

from loco_det.experiment.config import detector_config, detector_tasks
from pretrain.engine.optimizers import LossScalingOptimWrapper
from tests.loco_det.model.test_data_parallel import demo_config, make_batch


def make_detector(**options) -> torch.nn.Module:
    config = demo_config()
    config.update(options)
    torch.manual_seed(0)
    init_default_scope("mmdet")
    return MODELS.build(ConfigDict(detector_config(config, ("a", "b"))))


def losses(detector: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # proposals are sampled
    data = detector.train().data_preprocessor(make_batch([0, 1]), True)
    return detector.parse_losses(detector(**data, mode="loss"))[1]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "tolerance"), [
    (dict(channels_last=True), 1e-4),
    (dict(autocast="bfloat16"), 5e-2),
    (dict(autocast="bfloat16", channels_last=True), 5e-2),
])
def test_knobs_change_the_speed_and_not_the_losses(options, tolerance):
    """RPN losses, which do not depend on the proposals that are drawn, are float32's; all gradients are finite float32."""
    expected, detector = losses(make_detector()), make_detector(**options)
    found = losses(detector)
    for name in ("loss_rpn_cls", "loss_rpn_bbox"):
        torch.testing.assert_close(found[name].float(), expected[name], rtol=tolerance, atol=1e-4)
    found["loss"].backward()
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)
    assert all(p.grad is None for p in detector.backbone.parameters() if not p.requires_grad)


def test_boxes_keep_their_place_under_autocast():
    """Features of a box far from the origin are read where it is; in bfloat16 1033.7 would be 1032."""
    torch.manual_seed(0)
    levels = tuple(torch.randn(1, 32, 300 >> i, 600 >> i) for i in range(3))
    boxes = torch.tensor([[0.0, 1033.7, 411.3, 1071.9, 455.1]])
    extractor = make_detector().roi_head.bbox_roi_extractor
    expected = extractor(levels, boxes)
    found = extractor(tuple(level.bfloat16() for level in levels), boxes)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=2e-2)


def test_a_detector_without_masks_trains_and_predicts():
    """Its losses and predictions are of boxes alone."""
    config = demo_config()
    config.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    torch.manual_seed(0)
    init_default_scope("mmdet")
    detector = revert_sync_batchnorm(MODELS.build(ConfigDict(detector_config(config, ("a", "b"))))).train()
    optimizer = OptimWrapper(torch.optim.SGD((p for p in detector.parameters() if p.requires_grad), lr=1e-3))
    losses_by_name = detector.train_step(make_batch([0, 1]), optimizer)
    assert "loss_bbox" in losses_by_name and "loss_mask" not in losses_by_name
    found = detector.eval().test_step(make_batch([0]))
    assert "masks" not in found[0].pred_instances


def test_another_detector_of_mmdets_trains():
    """RetinaNet, of one stage: only backbone and number of classes are ours."""
    config = demo_config()
    model = get_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py").model
    model.backbone = config.model.backbone
    config.model = model
    options = detector_config(config, ("a", "b"))
    init_default_scope("mmdet")
    detector = revert_sync_batchnorm(MODELS.build(ConfigDict(options))).train()
    assert detector.bbox_head.num_classes == 2 and detector_tasks(options) == ("bbox",)
    optimizer = OptimWrapper(torch.optim.SGD((p for p in detector.parameters() if p.requires_grad), lr=1e-3))
    assert "loss_bbox" in detector.train_step(make_batch([0, 1]), optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [dict(frozen_stages=4, norm_eval=True), dict(frozen_stages=1, norm_eval=False)])
def test_training_changes_what_is_not_frozen(backbone):
    """After two steps: parameters and buffers of frozen stages are bit-identical, everything else has changed."""
    config = demo_config()
    config.model.backbone.update(backbone)
    torch.manual_seed(0)
    init_default_scope("mmdet")
    detector = revert_sync_batchnorm(MODELS.build(ConfigDict(detector_config(config, ("a", "b"))))).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    optimizer = OptimWrapper(torch.optim.SGD((p for p in detector.parameters() if p.requires_grad), lr=1e-2))
    for _ in range(2):
        detector.train_step(make_batch([0, 1]), optimizer)
    frozen = {"conv1", "bn1", *(f"layer{stage}" for stage in range(1, backbone["frozen_stages"] + 1))}
    for name, value in detector.state_dict().items():
        is_frozen = name.startswith("backbone") and name.split(".")[2] in frozen
        assert torch.equal(value, before[name]) == is_frozen, name


@pytest.mark.slow
def test_float16_scales_losses():
    """The wrapper that split_config takes for it: a step with finite weights, and a scale that is logged."""
    detector = revert_sync_batchnorm(make_detector(autocast="float16")).train()
    before = {name: value.clone() for name, value in detector.named_parameters()}
    optimizer = torch.optim.SGD((p for p in detector.parameters() if p.requires_grad), lr=1e-3)
    wrapper = LossScalingOptimWrapper(optimizer=optimizer, init_scale=2.0**8)
    detector.train_step(make_batch([0, 1]), wrapper)
    changed = [name for name, value in detector.named_parameters() if not torch.equal(value, before[name])]
    for part in ("neck", "roi_head.bbox_head", "roi_head.mask_head"):
        assert any(name.startswith(part) for name in changed)
    assert all(value.isfinite().all() for value in detector.parameters())


def test_unknown_precision_is_refused():
    """The values that there are."""
    with pytest.raises(ValueError, match="'half'"):
        make_detector(autocast="half")
    with pytest.raises(ValueError, match="'BN'"):
        make_detector(new_layer_norm="BN")
