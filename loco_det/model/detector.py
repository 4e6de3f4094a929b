"""Mask R-CNN as mmdet has it, with the precision and memory layout that pretraining offers, too."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.detectors import MaskRCNN
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS
from torch import Tensor

from pretrain.learner import AUTOCAST


@MODELS.register_module()
class Float32RoIExtractor(SingleRoIExtractor):
    """mmdet's extractor that takes features at boxes in float32, whatever the features' type.

    mmdet's own rounds the boxes to it: under bfloat16 to 4 pixels at 1000.
    """

    def forward(self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """See :class:`mmdet.models.roi_heads.roi_extractors.SingleRoIExtractor`."""
        return super().forward(tuple(level.float() for level in feats), rois, roi_scale_factor)


@MODELS.register_module()
class TransferMaskRCNN(MaskRCNN):
    """mmdet's Mask R-CNN that computes in ``autocast`` and in ``channels_last`` layout, in training and evaluation.

    Anchors, boxes and weights stay in float32; float16 needs an optimizer wrapper that scales losses.

    Args:
        autocast: ``"bfloat16"``, ``"float16"``, or None for float32.
        channels_last: the layout that tensor cores read.
        options: mmdet's.

    Raises:
        ValueError: ``autocast`` is of no other value.
    """

    def __init__(self, *, autocast: str | None = None, channels_last: bool = False, **options: Any) -> None:
        if autocast not in AUTOCAST:
            raise ValueError(f"autocast is {autocast!r}; None, 'bfloat16' or 'float16' is needed")
        super().__init__(**options)
        self.autocast = autocast
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor") -> Any:
        """See :class:`mmdet.models.BaseDetector`; ``inputs`` is ``(B, 3, H, W)``."""
        inputs = inputs.to(memory_format=self.memory_format)
        with torch.autocast(inputs.device.type, AUTOCAST[self.autocast], enabled=self.autocast is not None):
            return super().forward(inputs, data_samples, mode)
