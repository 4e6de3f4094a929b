"""Box and mask AP as COCO defines them, unrounded, in points."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import tempfile
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS as METRIC_REGISTRY
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loco_det.evaluation.results import METRICS, TASKS


def coco_ap(
    ground_truth: COCO, detections: list[dict[str, Any]], iou_type: str
) -> dict[str, float]:
    """AP of detections in COCO's result format.

    Args:
        ground_truth: the annotations.
        detections: ``{"image_id", "category_id", "score", "bbox" | "segmentation"}`` each; may be empty.
        iou_type: ``"bbox"`` or ``"segm"``.

    Returns:
        ``METRICS`` -> points, 0 to 100; NaN where no object of that size exists.
    """
    if iou_type == "segm":
        # with boxes in the results pycocotools sorts objects into small, medium and large by the box's area
        detections = [{key: value for key, value in d.items() if key != "bbox"} for d in detections]
    with contextlib.redirect_stdout(sys.stderr):
        evaluation = COCOeval(ground_truth, _as_results(ground_truth, detections), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: 100 * float(value) if value > -1 else math.nan
        for name, value in zip(METRICS, evaluation.stats[:6], strict=True)
    }


def _as_results(ground_truth: COCO, detections: list[dict[str, Any]]) -> COCO:
    if detections:
        return ground_truth.loadRes(detections)
    empty = COCO()  # loadRes refuses an empty list
    empty.dataset = {**ground_truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


@METRIC_REGISTRY.register_module()
class CocoAP(CocoMetric):
    """mmdet's COCO metric with :func:`coco_ap` at its end: unrounded, and 0 instead of an error without detections.

    Reports ``bbox_AP`` ... ``segm_APl``.
    """

    default_prefix = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(metric=list(TASKS), **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """See :class:`mmdet.evaluation.CocoMetric`."""
        self.cat_ids = [category["id"] for category in self._coco_api.dataset["categories"]]
        predictions = [prediction for _, prediction in results]
        metrics = {}
        with tempfile.TemporaryDirectory() as folder:
            files = self.results2json(predictions, f"{folder}/results")
            for iou_type in TASKS:
                with open(files[iou_type]) as file:
                    ap = coco_ap(self._coco_api, json.load(file), iou_type)
                metrics |= {f"{iou_type}_{name}": np.float64(value) for name, value in ap.items()}
        return metrics
