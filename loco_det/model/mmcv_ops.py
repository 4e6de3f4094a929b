"""The compiled mmcv kernels that Mask R-CNN needs, served by torchvision.

A plain ``pip install`` builds mmcv without its extension ``mmcv._ext``, and then importing ``mmcv.ops`` fails, although Mask
R-CNN uses only three of its many kernels: ``nms``, ``roi_align_forward`` and ``roi_align_backward``. torchvision has all
three, for CPU and CUDA. :func:`install_torchvision_kernels` puts a module in the place of the missing extension that serves
those three and refuses every other by name. It must run before the first import of ``mmcv.ops``, and so before ``mmdet``.

The signatures follow the calls in ``mmcv/ops/nms.py`` and ``mmcv/ops/roi_align.py`` (mmcv 2.x).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

_EXTENSION = "mmcv._ext"
_POOL_MODE_AVG = 1  # mmcv passes 0 for 'max' and 1 for 'avg'
_FIX = ("Build mmcv with its ops: with torch and a compiler installed, run `MMCV_WITH_OPS=1 pip install "
        "--no-build-isolation --no-deps --force-reinstall --no-binary onedl-mmcv onedl-mmcv`")


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The type to compute in: float64 where any input has it, otherwise float32.

    torchvision has no bfloat16 kernel, no half ``nms`` on the CPU, and its half RoIAlign computes even the sampling
    positions in half precision.
    """
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


@torch.no_grad()
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(N, 4)``, corners x1, y1, x2, y2 in pixels, of any floating type.
        scores: ``(N,)``, higher is better, of any floating type.
        iou_threshold: a box is dropped if its IoU with a kept, better box is above this, in [0, 1].
        offset: 0 or 1; widths and heights are ``x2 - x1 + offset`` and ``y2 - y1 + offset``.

    Returns:
        Indices of the kept boxes, int64 ``(K,)``, by descending score.

    Raises:
        ValueError: ``offset`` is neither 0 nor 1.
    """
    if offset not in (0, 1):
        raise ValueError(f"nms: offset must be 0 or 1, got {offset!r}")
    dtype = _compute_dtype(boxes, scores)
    if offset:
        # moving x2 and y2 adds the offset to every width, height and overlap; in float64 the sum is exact
        dtype = torch.float64
    boxes = boxes.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, offset, offset])
    if dtype == torch.float32:
        # the compiled kernel takes its threshold as a C float; as a double, 0.6 is smaller than a float32 IoU of 3/5
        iou_threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return torch.ops.torchvision.nms(boxes, scores.to(dtype), float(iou_threshold))


@torch.no_grad()
def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign with average pooling, written into ``output`` ``(K, C, aligned_height, aligned_width)``.

    Args:
        input: feature map ``(N, C, H, W)``.
        rois: ``(K, 5)``: image index, then x1, y1, x2, y2 in the pixels of the network's input.
        output: receives the result.
        argmax_y: used by max pooling only, as is ``argmax_x``.
        argmax_x: see there.
        aligned_height: bins of the output.
        aligned_width: bins of the output.
        spatial_scale: size of the feature map over the size of the network's input.
        sampling_ratio: samples a bin and axis; 0 for as many as feature pixels in a bin.
        pool_mode: 1 for average; 0, for maximum, is refused.
        aligned: whether to shift the boxes by half a feature pixel (mmdet's default).

    Raises:
        RuntimeError: ``pool_mode`` is not 1.
        ValueError: on the CPU, a box is not finite, lies in no image of the batch or, when ``aligned``, has a negative size;
            on CUDA the check would stall the stream, and the compiled kernel has none there either.
    """
    del argmax_y, argmax_x
    _require_average(pool_mode, "roi_align_forward")
    if rois.device.type == "cpu":
        _check_rois(rois, input.size(0), aligned)
    dtype = _compute_dtype(input, rois)
    pooled = torch.ops.torchvision.roi_align(
        input.to(dtype), rois.to(dtype), float(spatial_scale), aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(pooled)


@torch.no_grad()
def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient ``grad_output`` of :func:`roi_align_forward`'s output to its feature map, added to ``grad_input``.

    The other arguments are as there; boxes get no gradient.
    """
    del argmax_y, argmax_x
    _require_average(pool_mode, "roi_align_backward")
    dtype = _compute_dtype(grad_output, rois)
    gradient = torch.ops.torchvision._roi_align_backward(
        grad_output.to(dtype), rois.to(dtype), float(spatial_scale), aligned_height, aligned_width, *grad_input.shape,
        sampling_ratio, aligned)
    grad_input.add_(gradient)


def _require_average(pool_mode: int, op: str) -> None:
    if pool_mode != _POOL_MODE_AVG:
        raise RuntimeError(f"{_EXTENSION}.{op}: torchvision's RoIAlign has average pooling only, got pool_mode={pool_mode} "
                           f"('max' is 0). Set pool_mode='avg', or: {_FIX}.")


def _check_rois(rois: Tensor, num_images: int, aligned: bool) -> None:
    """Refuse boxes on which torchvision's CPU kernel reads out of bounds or exhausts memory."""
    if not torch.isfinite(rois).all():
        raise ValueError("roi_align: boxes must be finite; NaN or infinity found")
    if ((rois[:, 0] < 0) | (rois[:, 0] >= num_images)).any():
        raise ValueError(f"roi_align: image index outside the batch of {num_images}")
    if aligned and (rois[:, 3:] < rois[:, 1:3]).any():
        raise ValueError("roi_align: boxes must not have a negative width or height")


def _not_compiled() -> str:
    """What mmcv's own environment report says of a missing extension."""
    return "n/a"


def _refuse(op: str) -> Callable[..., None]:
    def refused(*args: object, **kwargs: object) -> None:
        raise RuntimeError(f"{_EXTENSION}.{op} was called, but this install of mmcv has no compiled kernels (torchvision "
                           f"serves nms, roi_align_forward and roi_align_backward in their place, nothing else). {_FIX}.")

    refused.__name__ = refused.__qualname__ = op
    return refused


class TorchvisionKernels(ModuleType):
    """A module in the place of ``mmcv._ext``.

    Every public name is an attribute, because ``mmcv.ops`` asserts on import that all its kernels exist; those that
    torchvision does not have raise ``RuntimeError`` when called.
    """

    def __init__(self) -> None:
        super().__init__(_EXTENSION, "Kernels of mmcv served by torchvision.")
        # importlib.util.find_spec, by which mmengine asks for the extension, rejects a None.
        self.__spec__ = ModuleSpec(_EXTENSION, loader=None)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward
        # mmcv.utils.collect_env calls these two to describe the install, not to compute.
        self.get_compiler_version = _not_compiled
        self.get_compiling_cuda_version = _not_compiled

    def __getattr__(self, name: str) -> Callable[..., None]:
        # inspect, pickle and warnings probe modules for such names (__file__, __path__)
        if name.startswith("_"):
            raise AttributeError(f"module {_EXTENSION!r} has no attribute {name!r}")
        return _refuse(name)


def install_torchvision_kernels() -> bool:
    """Serves mmcv's missing extension by torchvision, where mmcv has none of its own; again it changes nothing.

    An extension that exists but does not load, because it was built for another torch, is replaced too, with a warning.

    Returns:
        Whether torchvision serves the kernels; False where mmcv has compiled ones, which are left alone.
    """
    mmcv = importlib.import_module("mmcv")
    try:
        extension = importlib.import_module(_EXTENSION)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == _EXTENSION
        if not missing:
            warnings.warn(f"mmcv's compiled kernels do not load ({error}); torchvision's are used instead. {_FIX}.",
                          stacklevel=2)
        extension = sys.modules[_EXTENSION] = TorchvisionKernels()
        mmcv._ext = extension
    return isinstance(extension, TorchvisionKernels)
