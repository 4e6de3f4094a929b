"""The official Cityscapes AP as a metric of mmengine's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from pycocotools import mask as rle_codec

from loco_det.evaluation.cityscapes_ap import ImagePredictions, class_label_ids, ground_truth_file, official_ap


@METRICS.register_module()
class CityscapesAP(BaseMetric):
    """Reports :func:`~loco_det.evaluation.cityscapes_ap.official_ap` as ``official_AP`` and ``official_AP50``.

    mmdet's ``CityScapesMetric`` deletes a folder of a fixed name when it starts, so that runs side by side destroy each
    other's predictions; this one keeps them in memory, as RLE, and writes files for one image at a time.

    Args:
        ground_truth: folder of the instanceIds images, ``gtFine/<split>``.
        classes: names of the labels 0, 1, ...
        workers: processes of the evaluation; None for as many as there are cores.
        collect_device: see :class:`mmengine.evaluator.BaseMetric`.

    Raises:
        ValueError: a class is none of those that the benchmark evaluates.
    """

    default_prefix = None

    def __init__(
        self, ground_truth: str, classes: Sequence[str], workers: int | None = None, collect_device: str = "cpu"
    ) -> None:
        super().__init__(collect_device=collect_device)
        self.ground_truth = ground_truth
        self.workers = workers
        self._label_ids = class_label_ids(classes)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the predictions of a batch.

        Args:
            data_batch: not used.
            data_samples: dicts with ``img_path`` and ``pred_instances``: ``labels`` ``(n,)``, ``scores`` ``(n,)``, where the
                detector has them ``mask_scores`` ``(n,)``, and ``masks`` ``(n, H, W)``.
        """
        for sample in data_samples:
            predicted = sample["pred_instances"]
            scores = predicted["mask_scores"] if "mask_scores" in predicted else predicted["scores"]
            self.results.append(ImagePredictions(
                ground_truth=ground_truth_file(self.ground_truth, sample["img_path"]),
                label_ids=[self._label_ids[label] for label in torch.as_tensor(predicted["labels"]).tolist()],
                scores=torch.as_tensor(scores).tolist(),
                masks=_encode(torch.as_tensor(predicted["masks"])),
            ))

    def compute_metrics(self, results: list[ImagePredictions]) -> dict[str, np.float64]:
        """See :class:`mmengine.evaluator.BaseMetric`; NaN where no object exists."""
        return {f"official_{name}": np.float64(value) for name, value in official_ap(results, self.workers).items()}


def _encode(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Compressed RLE of masks ``(n, H, W)``."""
    by_column = masks.bool().transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)  # (n, W, H)
    return rle_codec.encode(by_column.T)  # (H, W, n) in Fortran's order, without another copy
