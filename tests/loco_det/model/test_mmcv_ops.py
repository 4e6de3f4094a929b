"""The torchvision kernels against float64 NumPy references, and their place in mmcv."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.utils.dl_utils import mmcv_full_available

from loco_det.model import mmcv_ops

SERVED_BY_TORCHVISION = mmcv_ops.install_torchvision_kernels()

import mmcv.ops  # noqa: E402  needs the kernels installed


def iou_matrix(boxes: np.ndarray, offset: int) -> np.ndarray:
    """Pairwise IoU of (N, 4) boxes whose widths are x2 - x1 + offset, float64."""
    boxes = boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], boxes[:, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    overlap = np.clip(high - low + offset, 0, None).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(-1)
    return overlap / (area[:, None] + area[None, :] - overlap)


def reference_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int) -> list:
    """Keep a box if no kept box with a higher score overlaps it by more than the threshold."""
    ious = iou_matrix(boxes, offset)
    assert np.abs(ious - threshold).min() > 1e-6, "an overlap ties with the threshold"
    kept: list[int] = []
    for index in np.argsort(-scores):
        if all(ious[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return kept


def sampling_matrix(start: float, size: float, bins: int, length: int, ratio: int) -> np.ndarray:
    """(bins, length) weights of a line's pixels in each bin's average along one axis.

    A bin is sampled at the centres of ``ratio`` equal parts (of as many as it spans pixels, if
    0); a sample further than one pixel outside counts as zero, any other is clamped to the line
    and interpolated linearly.
    """
    parts = ratio if ratio > 0 else int(np.ceil(size / bins))
    weights = np.zeros((bins, length))
    for b in range(bins):
        for part in range(parts):
            position = start + (b + (part + 0.5) / parts) * size / bins
            if not -1 <= position <= length:
                continue
            position = min(max(position, 0.0), length - 1.0)
            below = min(int(position), length - 2)
            weights[b, below] += (below + 1 - position) / parts
            weights[b, below + 1] += (position - below) / parts
    return weights


def reference_roi_align(
    features: np.ndarray, rois: np.ndarray, gradient: np.ndarray, ratio: int, aligned: bool
) -> tuple[np.ndarray, np.ndarray]:
    """RoIAlign at scale 1/4 as two matrix products per box, and their transpose, float64."""
    bins_h, bins_w = gradient.shape[2:]
    output, features_gradient = np.zeros_like(gradient), np.zeros_like(features)
    shift, least = (0.5, 0.0) if aligned else (0.0, 1.0)
    for k, roi in enumerate(rois):
        image, (x1, y1, x2, y2) = int(roi[0]), roi[1:] / 4
        width, height = max(x2 - x1, least), max(y2 - y1, least)
        rows = sampling_matrix(y1 - shift, height, bins_h, features.shape[2], ratio)
        columns = sampling_matrix(x1 - shift, width, bins_w, features.shape[3], ratio)
        output[k] = rows @ features[image] @ columns.T
        features_gradient[image] += rows.T @ gradient[k] @ columns
    return output, features_gradient


def random_boxes(rng: np.random.Generator, count: int, side: float) -> np.ndarray:
    """(count, 4) float32 corners within a square, up to half as large as it."""
    corner = rng.uniform(0, side, (count, 2))
    return np.hstack([corner, corner + rng.uniform(0.5, side / 2, (count, 2))]).astype(np.float32)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_nms_equals_reference(offset: int, threshold: float) -> None:
    """mmcv.ops.nms keeps the boxes of the reference, in the order of the scores."""
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 150, 12.0), rng.permutation(150).astype(np.float32)
    expected = reference_nms(boxes, scores, threshold, offset)
    assert expected != reference_nms(boxes, scores, threshold, 1 - offset), "offset must matter"

    dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset=offset)

    assert kept.tolist() == expected
    np.testing.assert_array_equal(dets, np.hstack([boxes, scores[:, None]])[expected])


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_keeps_a_box_exactly_at_the_threshold(offset: int) -> None:
    """IoU 3/5 is not above the threshold 0.6, although 3/5 in float32 exceeds 0.6 in float64."""
    boxes = np.array([[0, 0, 4, 1], [1, 0, 5, 1]], np.float32)
    boxes[:, 2:] -= offset
    _, kept = mmcv.ops.nms(boxes, np.array([0.9, 0.8], np.float32), 0.6, offset=offset)
    assert kept.tolist() == [0, 1]


def test_nms_offset_does_not_round_coordinates() -> None:
    """x2 + 1 is not representable in float32 here; rounding it would move the IoU past 0.5."""
    tiny = np.float32(2.0**-30)
    boxes = np.array([[0, 0, 1, 0], [0, 0, tiny, 0]], np.float32)  # widths 2 and 1 + tiny
    assert iou_matrix(boxes, 1)[0, 1] > 0.5
    kept = mmcv_ops.nms(torch.from_numpy(boxes), torch.tensor([0.9, 0.8]), 0.5, offset=1)
    assert kept.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nms_other_types(dtype: torch.dtype) -> None:
    """Types without a CPU kernel in torchvision give the result of float32 on the same values."""
    rng = np.random.default_rng(4)
    boxes = torch.from_numpy(random_boxes(rng, 60, 12.0)).to(dtype)
    scores = torch.from_numpy(rng.permutation(60)).to(dtype)
    kept = mmcv_ops.nms(boxes, scores, 0.4)
    assert kept.tolist() == mmcv_ops.nms(boxes.float(), scores.float(), 0.4).tolist()
    assert mmcv_ops.nms(boxes, scores.float(), 0.4).tolist() == kept.tolist(), "mixed types"


def test_nms_without_boxes_and_with_a_bad_offset() -> None:
    """No boxes give no indices; an offset other than 0 and 1 has no meaning."""
    assert mmcv_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=1).tolist() == []
    with pytest.raises(ValueError, match="offset must be 0 or 1, got 2"):
        mmcv_ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=2)


@pytest.mark.parametrize("split_thr", [10000, 10])
def test_batched_nms_is_nms_per_class(split_thr: int) -> None:
    """batched_nms keeps the union of the reference's results for each class, best first."""
    rng = np.random.default_rng(5)
    boxes, scores = random_boxes(rng, 90, 12.0), rng.permutation(90).astype(np.float32)
    classes = rng.integers(0, 3, 90)
    expected: list[int] = []
    for label in range(3):
        (members,) = np.nonzero(classes == label)
        own = reference_nms(boxes[members], scores[members], 0.5, 0)
        expected += members[own].tolist()
    expected.sort(key=lambda i: -scores[i])

    arguments = map(torch.from_numpy, (boxes, scores, classes))
    config = {"type": "nms", "iou_threshold": 0.5, "split_thr": split_thr}
    _, kept = mmcv.ops.batched_nms(*arguments, config)

    assert kept.tolist() == expected
    assert expected != reference_nms(boxes, scores, 0.5, 0), "classes must matter here"


ROIS = np.array(
    [  # image, x1, y1, x2, y2 at four times the resolution of 3 x 2 x 11 x 13 features
        [0, 3.1, 5.2, 30.7, 39.3],
        [2, -9.3, -7.1, 20.9, 17.7],  # left of and above the image
        [1, 30.3, 22.9, 71.1, 66.7],  # right of and below it
        [2, 10.1, 12.3, 11.2, 13.7],  # smaller than a feature pixel
        [0, -50.3, -41.9, -30.1, -20.2],  # wholly outside: zeros
        [1, 8.3, 2.9, 8.3, 2.9],  # empty
    ]
)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_roi_align_equals_reference(
    aligned: bool, ratio: int, dtype: torch.dtype, tolerance: float
) -> None:
    """mmcv.ops.RoIAlign and its gradient equal the reference, on boxes in and out of the image."""
    rng = np.random.default_rng(6)
    features, gradient = rng.normal(size=(3, 2, 11, 13)), rng.normal(size=(len(ROIS), 2, 3, 4))
    expected, expected_gradient = reference_roi_align(features, ROIS, gradient, ratio, aligned)

    tensor = torch.from_numpy(features).to(dtype).requires_grad_()
    layer = mmcv.ops.RoIAlign((3, 4), 0.25, ratio, aligned=aligned)
    output = layer(tensor, torch.from_numpy(ROIS).to(dtype))
    output.backward(torch.from_numpy(gradient).to(dtype))

    np.testing.assert_allclose(output.detach(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(tensor.grad, expected_gradient, rtol=0, atol=tolerance)
    assert output.dtype == tensor.grad.dtype == dtype


def test_roi_align_without_boxes() -> None:
    """An image without proposals yields an empty output and a zero gradient."""
    features = torch.randn(1, 2, 8, 8, requires_grad=True)
    output = mmcv.ops.RoIAlign(7, 1.0)(features, torch.zeros(0, 5))
    output.sum().backward()
    assert output.shape == (0, 2, 7, 7)
    assert torch.equal(features.grad, torch.zeros(1, 2, 8, 8))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_align_low_precision(dtype: torch.dtype, autocast: bool) -> None:
    """16-bit features give the float32 result of the same values, rounded once at the end."""
    generator = torch.Generator().manual_seed(7)
    features = torch.randn(3, 2, 11, 13, generator=generator).to(dtype)
    gradient = torch.randn(len(ROIS), 2, 3, 4, generator=generator).to(dtype)
    rois = torch.from_numpy(ROIS).to(dtype)

    def run(convert: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = features.to(convert, copy=True).requires_grad_()
        output = mmcv.ops.RoIAlign((3, 4), 0.25)(leaf, rois.to(convert))
        output.backward(gradient.to(convert))
        return output.detach(), leaf.grad

    expected = run(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        actual = run(dtype)
    for low, full in zip(actual, expected, strict=True):
        assert low.dtype == dtype and torch.equal(low, full.to(dtype))


def roi_align_arguments(**changes: object) -> dict[str, object]:
    """Arguments of roi_align_forward as mmcv passes them, for one box in one image."""
    arguments = dict(
        input=torch.ones(1, 1, 4, 4),
        rois=torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]]),
        output=torch.zeros(1, 1, 2, 2),
        argmax_y=torch.zeros(0),
        argmax_x=torch.zeros(0),
    )
    sizes = dict(aligned_height=2, aligned_width=2, spatial_scale=1.0, sampling_ratio=0)
    return arguments | sizes | dict(pool_mode=1, aligned=True) | changes


def test_roi_align_fills_its_buffers_outside_the_graph() -> None:
    """The output buffer is overwritten, the gradient's is added to; neither joins a graph."""
    arguments = roi_align_arguments(
        input=torch.ones(1, 1, 4, 4, requires_grad=True), output=torch.full((1, 1, 2, 2), 9.0)
    )
    mmcv_ops.roi_align_forward(**arguments)
    assert torch.equal(arguments["output"], torch.ones(1, 1, 2, 2))
    assert arguments["output"].grad_fn is None

    del arguments["input"], arguments["output"]
    total = torch.full((1, 1, 4, 4), 5.0)
    mmcv_ops.roi_align_backward(torch.ones(1, 1, 2, 2), grad_input=total, **arguments)
    assert total.sum().item() == pytest.approx(5.0 * 16 + 4.0), "the weights of a bin sum to one"


def test_max_pooling_is_refused() -> None:
    """torchvision averages only; pooling mode 'max' must not be answered with an average."""
    arguments = roi_align_arguments(pool_mode=0)
    with pytest.raises(RuntimeError, match="roi_align_forward.*average.*MMCV_WITH_OPS=1"):
        mmcv_ops.roi_align_forward(**arguments)
    arguments["grad_input"] = arguments.pop("input")
    arguments["grad_output"] = arguments.pop("output")
    with pytest.raises(RuntimeError, match="roi_align_backward.*average"):
        mmcv_ops.roi_align_backward(**arguments)


@pytest.mark.parametrize(
    "roi, message",
    [
        ([0, 0, 0, float("nan"), 2], "finite"),
        ([1, 0, 0, 2, 2], "outside the batch of 1"),
        ([-1, 0, 0, 2, 2], "outside the batch of 1"),
        ([0, 2, 0, 1, 2], "negative"),
    ],
)
def test_impossible_boxes_are_refused(roi: list[float], message: str) -> None:
    """Boxes on which torchvision's CPU kernel would read foreign memory raise instead."""
    with pytest.raises(ValueError, match=message):
        mmcv_ops.roi_align_forward(**roi_align_arguments(rois=torch.tensor([roi]).float()))


def test_unknown_kernel_names_itself_and_the_fix() -> None:
    """Any other kernel exists, as mmcv.ops demands, and says what to do once it is called."""
    kernels = mmcv_ops.TorchvisionKernels()
    with pytest.raises(RuntimeError, match="deform_conv_forward.*no compiled.*MMCV_WITH_OPS=1"):
        kernels.deform_conv_forward(torch.zeros(1), offset=None)
    if SERVED_BY_TORCHVISION:
        with pytest.raises(RuntimeError, match="softnms"):
            mmcv.ops.soft_nms(torch.zeros(1, 4), torch.zeros(1))


def test_module_answers_probes_like_a_module() -> None:
    """inspect, importlib and mmengine look at the module without finding kernels that are none."""
    kernels = mmcv_ops.TorchvisionKernels()
    assert not hasattr(kernels, "__file__") and not hasattr(kernels, "_private")
    assert inspect.getmodule(kernels) is kernels and "mmcv._ext" in repr(kernels)
    assert mmcv_full_available()
    assert isinstance(mmcv.ops.get_compiler_version(), str)


@pytest.fixture
def mmcv_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of mmcv's own, for an extension of the test's; undone afterwards."""
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path)])
    monkeypatch.setattr(mmcv, "_ext", None, raising=False)
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    importlib.invalidate_caches()
    return tmp_path


def test_missing_extension_is_replaced_once(mmcv_folder: Path) -> None:
    """Without an extension the kernels are installed, silently; a second call changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mmcv_ops.install_torchvision_kernels()
    first = sys.modules["mmcv._ext"]
    assert first is mmcv._ext and first.nms is mmcv_ops.nms
    assert mmcv_ops.install_torchvision_kernels()
    assert sys.modules["mmcv._ext"] is first


def test_real_extension_is_left_alone(mmcv_folder: Path) -> None:
    """An extension that loads is used as it is, also on a second call."""
    (mmcv_folder / "_ext.py").write_text("nms = 'compiled'\n")
    assert not mmcv_ops.install_torchvision_kernels()
    assert not mmcv_ops.install_torchvision_kernels()
    assert sys.modules["mmcv._ext"].nms == "compiled"


def test_broken_extension_is_replaced_with_a_warning(mmcv_folder: Path) -> None:
    """An extension built for another torch does not load; the warning says why."""
    broken = "raise ImportError('undefined symbol: _ZN5torch', name='mmcv._ext')\n"
    (mmcv_folder / "_ext.py").write_text(broken)
    with pytest.warns(UserWarning, match="undefined symbol: _ZN5torch"):
        assert mmcv_ops.install_torchvision_kernels()
    assert isinstance(sys.modules["mmcv._ext"], mmcv_ops.TorchvisionKernels)


def tiny_mask_rcnn() -> torch.nn.Module:
    """mmdet's Mask R-CNN with ResNet-18, two classes and few proposals, from random weights."""
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.hub import get_config

    register_all_modules()
    model = get_config("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py").model
    model.backbone.update(depth=18, init_cfg=None, frozen_stages=-1, norm_eval=False)
    model.neck.in_channels = [64, 128, 256, 512]
    model.roi_head.bbox_head.num_classes = model.roi_head.mask_head.num_classes = 2
    model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
    return MODELS.build(model)


@pytest.mark.slow
def test_mask_rcnn_trains_and_predicts() -> None:
    """mmdet's Mask R-CNN lowers its loss on one batch and then predicts boxes with masks."""
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    model = tiny_mask_rcnn().train()
    batch = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_classes=2, with_mask=True)
    batch = model.data_preprocessor(batch, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002)
    history = []
    for _ in range(6):
        loss, _ = model.parse_losses(model(**batch, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.isfinite(history).all() and history[-1] < 0.8 * history[0], history
    assert model.neck.fpn_convs[0].conv.weight.grad.abs().sum() > 0

    with torch.no_grad():
        (result,) = model.eval().test_step(demo_mm_inputs(1, [[3, 64, 64]], num_classes=2))
    predicted = result.pred_instances
    assert len(predicted) == 5 and predicted.masks.shape[0] == 5
    assert torch.isfinite(predicted.bboxes).all()
