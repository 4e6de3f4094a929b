"""Box and mask AP as COCO defines them, unrounded, in points, and predictions in COCO's result format.

Two libraries compute it. faster-coco-eval, in C++, is the default where it is installed: its precisions are those of
pycocotools to the last bits (``tests/loco_det/evaluation/test_coco_ap.py``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS as METRIC_REGISTRY

from pretrain.engine.work_dir import write_json

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
FASTER, REFERENCE = "faster_coco_eval", "pycocotools"
BACKENDS = ("auto", FASTER, REFERENCE)


class AveragePrecision(NamedTuple):
    """AP of boxes or masks in points, 0 to 100; NaN if there are no such objects.

    Attributes:
        metrics: of each of :data:`METRICS`.
        by_category: AP by category id.
    """

    metrics: dict[str, float]
    by_category: dict[int, float]


def coco_ap(
    ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], iou_type: str, backend: str = "auto"
) -> AveragePrecision:
    """AP of detections in COCO's result format.

    Annotations are identified by their position: their ids may repeat, and may be 0, which both libraries take for "not
    matched" and count as an error of the detector.

    Args:
        ground_truth: content of an annotation file, checked as :func:`loco_det.datasets.coco.load_annotations` does; it is
            not changed.
        detections: ``{"image_id", "category_id", "score", "bbox" | "segmentation"}`` each; may be empty.
        iou_type: ``"bbox"`` or ``"segm"``.
        backend: one of ``BACKENDS``; ``"auto"`` is faster-coco-eval where it is installed, otherwise pycocotools.

    Raises:
        ValueError: the backend is unknown or not installed, or a detection's box or score is not finite.
    """
    coco_class, evaluation_class = _library(backend)
    for detection in detections:  # the libraries rank and match them differently
        if not all(map(math.isfinite, [detection["score"], *detection.get("bbox", ())])):
            raise ValueError(f"a detection of image {detection['image_id']} has the score {detection['score']} and the box "
                             f"{detection.get('bbox')}; both must be finite")
    annotations = [{**annotation, "id": i} for i, annotation in enumerate(ground_truth["annotations"], 1)]
    # with boxes in the results both libraries sort objects into small, medium and large by the box's area
    unwanted = "bbox" if iou_type == "segm" else "segmentation"
    results = [{key: value for key, value in detection.items() if key != unwanted} for detection in detections]
    with contextlib.redirect_stdout(sys.stderr):
        truth = _indexed(coco_class, ground_truth, annotations)
        # pycocotools' loadRes refuses an empty list
        found = truth.loadRes(results) if results else _indexed(coco_class, ground_truth, [])
        evaluation = evaluation_class(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # thresholds, recalls, categories, areas (all, small, medium, large), numbers of detections (1, 10, 100)
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_category = {int(category_id): _points(values.mean()) if (values := found[found > -1]).size else math.nan
                   for category_id, found in zip(evaluation.params.catIds, np.moveaxis(precision, 2, 0), strict=True)}
    return AveragePrecision(dict(zip(METRICS, map(_points, evaluation.stats[: len(METRICS)]), strict=True)), by_category)


def _points(value: float) -> float:
    return 100 * float(value) if value > -1 else math.nan


def coco_results(
    predictions: Iterable[Mapping[str, Any]], category_ids: Sequence[int], tasks: Iterable[str]
) -> dict[str, list[dict[str, Any]]]:
    """Predictions in COCO's result format; boxes and masks apart, or both libraries would sort masks by their boxes' areas.

    Args:
        predictions: of an image each: ``img_id``, ``scores (n,)``, ``labels (n,)``, for boxes ``bboxes (n, 4)`` as x1, y1,
            x2, y2, for masks ``masks``, n compressed RLEs, and where the detector has them ``mask_scores (n,)``, which masks
            have instead.
        category_ids: of the labels.
        tasks: ``"bbox"``, ``"segm"`` or both.

    Returns:
        Of ``"bbox"`` ``{"image_id", "category_id", "score", "bbox": [x, y, width, height]}`` each, of ``"segm"``
        ``{"image_id", "category_id", "score", "segmentation": {"size", "counts"}}`` each, plain data.
    """
    results: dict[str, list[dict[str, Any]]] = {task: [] for task in tasks}
    for prediction in predictions:
        scores = {"bbox": prediction["scores"], "segm": prediction.get("mask_scores", prediction["scores"])}
        for task, found in results.items():
            shapes = _boxes(prediction) if task == "bbox" else _masks(prediction)
            for label, score, shape in zip(prediction["labels"].tolist(), scores[task].tolist(), shapes, strict=True):
                found.append({"image_id": prediction["img_id"], "category_id": category_ids[label], "score": score, **shape})
    return results


def _boxes(prediction: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return ({"bbox": [x1, y1, x2 - x1, y2 - y1]} for x1, y1, x2, y2 in prediction["bboxes"].tolist())


def _masks(prediction: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return ({"segmentation": {"size": [int(side) for side in mask["size"]], "counts": mask["counts"].decode()}}
            for mask in prediction["masks"])


@METRIC_REGISTRY.register_module()
class CocoAP(CocoMetric):
    """mmdet's COCO metric with :func:`coco_ap` at its end: unrounded, and 0 instead of an error without detections.

    Reports ``bbox_AP`` ... ``segm_APl``, and for each class ``bbox_AP/person`` and so on.

    Args:
        ann_file: the annotations.
        tasks: what the detector predicts, see :func:`loco_det.experiment.config.detector_tasks`.
        backend: see :func:`coco_ap`.
        dump: prefix of the files to write the predictions to, in COCO's result format: ``PREFIX.bbox.json`` and
            ``PREFIX.segm.json``.

    Raises:
        ValueError: the backend is unknown or not installed; or images of the annotations have not been evaluated.
    """

    default_prefix = None

    def __init__(self, ann_file: str, tasks: Sequence[str], backend: str = "auto", dump: str | None = None) -> None:
        super().__init__(ann_file, metric=list(tasks))
        _library(backend)
        self._ground_truth: dict[str, Any] = self._coco_api.dataset
        self._tasks = tuple(tasks)
        self._backend = backend
        self._dump = dump

    def compute_metrics(self, results: list) -> dict[str, float]:
        """See :class:`mmdet.evaluation.CocoMetric`."""
        predictions = [prediction for _, prediction in results]
        lacking = {image["id"] for image in self._ground_truth["images"]} - {p["img_id"] for p in predictions}
        if lacking:
            raise ValueError(f"{len(lacking)} of {len(self._ground_truth['images'])} images have not been evaluated, "
                             f"for example {min(lacking)}; their objects would count as missed")
        names = {category["id"]: category["name"] for category in self._ground_truth["categories"]}
        metrics = {}
        for task, detections in coco_results(predictions, list(names), self._tasks).items():
            found = coco_ap(self._ground_truth, detections, task, self._backend)
            metrics |= {f"{task}_{name}": np.float64(value) for name, value in found.metrics.items()}
            metrics |= {f"{task}_AP/{names[category_id]}": np.float64(value)
                        for category_id, value in found.by_category.items()}
            if self._dump is not None:
                write_json(f"{self._dump}.{task}.json", detections)
        return metrics


def _library(backend: str) -> tuple[type, type]:
    """The library's classes of annotations and of their evaluation, which have the same interface in both."""
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}")
    if backend != REFERENCE and importlib.util.find_spec(FASTER) is not None:
        from faster_coco_eval import COCO, COCOeval_faster  # an optional dependency

        return COCO, COCOeval_faster
    if backend == FASTER:
        raise ValueError(f"backend {FASTER!r} is not installed; pip install faster-coco-eval, or take 'pycocotools'")
    return pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval


def _indexed(coco_class: type, ground_truth: Mapping[str, Any], annotations: list[dict[str, Any]]) -> Any:
    """The library's object of the ground truth with other annotations; both write into annotations, so these are copies."""
    coco = coco_class()
    coco.dataset = {"info": {}, **ground_truth, "annotations": annotations}  # loadRes wants an "info"
    coco.createIndex()
    return coco
