"""AP against pycocotools run by hand, and at its limits."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import loco_det.register  # noqa: F401  isort: skip
from loco_det.evaluation.coco_ap import coco_ap
from loco_det.evaluation.results import METRICS
from tests.conftest import ROOT

COCO_MINI = ROOT / "data" / "coco_mini" / "annotations" / "instances_val2017.json"


@pytest.fixture(scope="module")
def ground_truth(synthetic_root):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(synthetic_root / "annotations" / "instances_train2017.json"))


def perfect(ground_truth):
    """Every object that is no crowd, as a detection in COCO's result format."""
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9,
         "segmentation": ground_truth.annToRLE(a)}
        for a in ground_truth.anns.values() if not a["iscrowd"]
    ]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_ground_truth_scores_100(ground_truth, iou_type):
    """Crowds are ignored, not missed; sizes that do not occur are NaN."""
    ap = coco_ap(ground_truth, perfect(ground_truth), iou_type)
    assert list(ap) == list(METRICS)
    assert ap["AP"] == pytest.approx(100)
    assert ap["AP50"] == pytest.approx(100)
    assert math.isnan(ap["APl"])


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_noisy_detections_score_what_pycocotools_says(ground_truth, iou_type):
    """Unrounded and with the size ranges of masks by mask area."""
    rng = np.random.default_rng(0)
    detections = perfect(ground_truth)
    for d in detections:
        d["bbox"] = [float(v) for v in np.array(d["bbox"]) + rng.normal(0, 2, 4).clip(-4, 4)]
        d["score"] = float(rng.random())
        d["category_id"] = int(rng.choice(ground_truth.getCatIds())) if rng.random() < 0.3 else d["category_id"]
    plain = [{k: v for k, v in d.items() if iou_type == "bbox" or k != "bbox"} for d in detections]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCOeval(ground_truth, ground_truth.loadRes(plain), iou_type)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    found = coco_ap(ground_truth, detections, iou_type)
    assert 0 < found["AP"] < 100
    for value, expected in zip(found.values(), reference.stats[:6], strict=True):
        assert (math.isnan(value) and expected == -1) or value == pytest.approx(100 * expected, abs=1e-12)


@pytest.mark.skipif(not COCO_MINI.exists(), reason="data/coco_mini is not unpacked")
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_the_ground_truth_of_real_images_scores_100(iou_type):
    """COCO's own polygons, RLE and crowd regions."""
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO(str(COCO_MINI))
    assert coco_ap(real, perfect(real), iou_type)["AP"] == pytest.approx(100)


def test_no_detections_score_zero(ground_truth):
    """A detector that finds nothing has AP 0; mmdet's metric breaks off there."""
    ap = coco_ap(ground_truth, [], "segm")
    assert (ap["AP"], ap["APm"]) == (0, 0)
