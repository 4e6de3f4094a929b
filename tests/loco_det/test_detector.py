"""Precision and layout of the detector: the same losses and predictions, up to what the precision allows."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import MODELS

from loco_det.detection_config import detector_config
from tests.loco_det.test_data_parallel import demo_config, make_batch


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


def test_unknown_precision_is_refused():
    """The values that there are."""
    with pytest.raises(ValueError, match="autocast is 'half'; None, 'bfloat16' or 'float16' is needed"):
        make_detector(autocast="half")
    with pytest.raises(ValueError, match="new_layer_norm is 'BN'; 'SyncBN', 'GN' or 'none' is needed"):
        make_detector(new_layer_norm="BN")
