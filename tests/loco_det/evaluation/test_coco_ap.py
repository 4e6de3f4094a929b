"""AP of both backends against pycocotools run by hand, and at its limits; predictions in COCO's result format."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import METRICS as METRIC_REGISTRY

from loco_det.evaluation import coco_ap as module
from loco_det.evaluation.coco_ap import FASTER, METRICS, REFERENCE
from tests.conftest import ROOT

COCO_MINI = ROOT / "data" / "coco_mini" / "annotations" / "instances_val2017.json"
BOUNDARIES = (32.0**2, 96.0**2, 32.0**2 - 1e-9, 32.0**2 + 1e-9)  # of small, medium and large objects
IOU_TYPES = pytest.mark.parametrize("iou_type", ["bbox", "segm"])
EITHER_BACKEND = pytest.mark.parametrize("backend", [FASTER, REFERENCE])


def coco_ap(content, detections, iou_type, backend="auto"):
    """The six metrics; AP by category has a test of its own."""
    return module.coco_ap(content, detections, iou_type, backend).metrics


@pytest.fixture(scope="module")
def ground_truth(synthetic_root):
    return json.loads((synthetic_root / "annotations" / "instances_train2017.json").read_text())


def indexed(content):
    """pycocotools' object of an annotation content."""
    coco = COCO()
    coco.dataset = copy.deepcopy(content)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def reference_ap(content, detections, iou_type):
    """What pycocotools itself says, in points; boxes are left out of masks' results as on COCO's server."""
    plain = [{k: v for k, v in d.items() if iou_type == "bbox" or k != "bbox"} for d in copy.deepcopy(detections)]
    return untouched_ap(content, plain, iou_type)


def untouched_ap(content, results, iou_type):
    """What pycocotools says of a list of detections or a file of them as it is, in points."""
    coco = indexed(content)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value if value > -1 else math.nan for value in evaluation.stats[:6]]


def compressed(mask):
    """A mask ``(H, W)`` as RLE in plain data."""
    rle = rle_tools.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def perfect(content):
    """Every object that is not a crowd, as a detection in COCO's result format."""
    coco = indexed(content)
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9,
         "segmentation": compressed(coco.annToMask(a))}
        for a in coco.dataset["annotations"] if not a["iscrowd"]
    ]


def noisy(content, rng):
    """:func:`perfect` with other scores and, for some, another category, box or mask; tied scores."""
    category_ids = [category["id"] for category in content["categories"]]
    detections = perfect(content)
    for d in detections:
        d["bbox"] = [float(v) for v in np.array(d["bbox"]) + rng.normal(0, 2, 4).clip(-4, 4)]
        d["score"] = float(np.float32(rng.choice([rng.random(), 0.5, 0.25])))
        if rng.random() < 0.3:
            d["category_id"] = int(rng.choice(category_ids))
        d["segmentation"] = compressed(np.roll(rle_tools.decode(d["segmentation"]), rng.integers(-2, 3, 2), (0, 1)))
    return detections


def random_mask(rng, height, width):
    """A block, solid or full of holes, possibly empty."""
    mask = np.zeros((height, width), bool)
    top, left = rng.integers(0, height), rng.integers(0, width)
    mask[top : rng.integers(top, height + 1), left : rng.integers(left, width + 1)] = True
    return mask & (rng.random(mask.shape) < 0.7) if rng.random() < 0.5 else mask


def random_segmentation(rng, mask, crowd):
    """The mask as compressed or uncompressed RLE, or polygons of their own, in part outside the image."""
    kind = "uncompressed" if crowd else rng.choice(["compressed", "uncompressed", "polygons", "polygons"])
    if kind == "compressed":
        return compressed(mask)
    if kind == "uncompressed":
        flat = mask.T.reshape(-1)
        ends = np.concatenate([np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
        counts = np.diff(ends, prepend=0).tolist()
        return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}
    return [(rng.random(2 * rng.integers(3, 7)) * 1.1 * max(mask.shape) - 2).round(2).tolist()
            for _ in range(rng.integers(1, 3))]


def random_case(seed):
    """A small data set and detections, with everything in it that evaluation has a rule for.

    Images without objects, without detections or with 120 of them; categories with gaps, some without objects; crowds of
    RLE; areas of their own, also on the boundaries between sizes; ignored objects; boxes without area; masks without pixels;
    ties in score; image ids and detections in no order.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(20, 110, 2))
    image_ids = rng.permutation(rng.choice(10**9, rng.integers(1, 5), replace=False)).tolist()
    category_ids = rng.permutation(rng.choice(90, rng.integers(1, 5), replace=False) + 1).tolist()
    annotations, detections = [], []
    for image_id in image_ids:
        for _ in range(rng.integers(0, 6)):
            mask, crowd = random_mask(rng, height, width), rng.random() < 0.15
            rows, columns = np.nonzero(mask)
            box = [0.0] * 4 if not len(rows) else [
                float(v) for v in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)]
            annotations.append(dict(
                id=len(annotations) + 1, image_id=image_id, category_id=int(rng.choice(category_ids)), bbox=box,
                area=float(rng.choice([mask.sum(), mask.sum() * rng.random(), *BOUNDARIES])), iscrowd=int(crowd),
                segmentation=random_segmentation(rng, mask, crowd), ignore=int(rng.random() < 0.1),
            ))
    content = dict(
        images=[dict(id=i, width=width, height=height, file_name=f"{i}.jpg") for i in image_ids],
        annotations=annotations, categories=[dict(id=c, name=f"c{c}") for c in category_ids],
    )
    coco = indexed(content)
    for image_id in image_ids:
        objects = coco.imgToAnns[image_id]
        for _ in range(rng.choice([0, 1, 3, 10, 120], p=[0.2, 0.3, 0.2, 0.25, 0.05])):
            if objects and rng.random() < 0.8:
                near = objects[rng.integers(len(objects))]
                mask = np.roll(coco.annToMask(near), rng.integers(-2, 3, 2), (0, 1))
                box = (np.array(near["bbox"]) + rng.normal(0, 2, 4) * (rng.random() < 0.6)).clip(0).tolist()
                category_id = near["category_id"]
            else:
                mask, category_id = random_mask(rng, height, width), int(rng.choice(category_ids))
                box = (rng.random(4) * [width, height, width, height]).tolist()
            box[2:] = [32.0, 32.0] if rng.random() < 0.1 else box[2:]
            detections.append(dict(
                image_id=image_id, category_id=category_id, bbox=box, segmentation=compressed(mask),
                score=float(np.float32(rng.choice([rng.random(), 0.0, 0.25, 0.5, 1.0]))),
            ))
    return content, [detections[i] for i in rng.permutation(len(detections))]


@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 175), marks=pytest.mark.slow)], ids=str)
def test_random_predictions_score_what_pycocotools_says(seeds):
    """All six metrics of the default backend, unrounded; the cases have values of every kind."""
    seen = []
    for seed in seeds:
        content, detections = random_case(seed)
        for iou_type in ("bbox", "segm") if detections else ():
            expected = reference_ap(content, detections, iou_type)
            found = list(coco_ap(content, detections, iou_type, FASTER).values())
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, err_msg=f"{seed} {iou_type}")
            seen += expected
    assert np.isnan(seen).any() and len({round(value, 3) for value in seen if 0 < value < 100}) > 2 * len(seeds)


@IOU_TYPES
@EITHER_BACKEND
def test_ap_of_each_category_is_pycocotools_own(iou_type, backend):
    """Equal to an evaluation of that category alone; NaN where it has no object."""
    seen = []
    for seed in range(15):
        content, detections = random_case(seed)
        plain = [{k: v for k, v in d.items() if iou_type == "bbox" or k != "bbox"} for d in detections]
        if not plain:
            continue
        coco, expected = indexed(content), {}
        with contextlib.redirect_stdout(io.StringIO()):
            found = coco.loadRes(plain)
            for category in content["categories"]:
                evaluation = COCOeval(coco, found, iou_type)
                evaluation.params.catIds = [category["id"]]
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                expected[category["id"]] = 100 * evaluation.stats[0] if evaluation.stats[0] > -1 else math.nan
        by_category = module.coco_ap(content, detections, iou_type, backend).by_category
        assert by_category == pytest.approx(expected, abs=1e-12, nan_ok=True), seed
        seen += by_category.values()
    assert np.isnan(seen).any() and np.nanmax(seen) > 0


@IOU_TYPES
@EITHER_BACKEND
def test_noisy_detections_score_what_pycocotools_says(ground_truth, iou_type, backend):
    """The synthetic set with perturbed objects."""
    detections = noisy(ground_truth, np.random.default_rng(0))
    found = coco_ap(ground_truth, detections, iou_type, backend)
    assert 0 < found["AP"] < 100
    np.testing.assert_allclose(list(found.values()), reference_ap(ground_truth, detections, iou_type), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not COCO_MINI.exists(), reason="data/coco_mini is not unpacked")
@IOU_TYPES
def test_detections_of_real_images_score_what_pycocotools_says(iou_type):
    """COCO's own polygons, RLE and crowd regions; and the ground truth scores 100 there."""
    real = json.loads(COCO_MINI.read_text())
    detections = noisy(real, np.random.default_rng(1))
    expected = reference_ap(real, detections, iou_type)
    for backend in (FASTER, REFERENCE):
        found = coco_ap(real, detections, iou_type, backend)
        np.testing.assert_allclose(list(found.values()), expected, rtol=0, atol=1e-12)
    assert coco_ap(real, perfect(real), iou_type)["AP"] == pytest.approx(100)


@IOU_TYPES
@EITHER_BACKEND
def test_the_ground_truth_scores_100(ground_truth, iou_type, backend):
    """Crowds are ignored, not missed; sizes that do not occur are NaN; the ground truth is not changed."""
    before = copy.deepcopy(ground_truth)
    ap = coco_ap(ground_truth, perfect(ground_truth), iou_type, backend)
    assert list(ap) == list(METRICS)
    assert ap["AP"] == pytest.approx(100)
    assert ap["AP50"] == pytest.approx(100)
    assert math.isnan(ap["APl"])
    assert ground_truth == before


@EITHER_BACKEND
@pytest.mark.parametrize("renumber", [lambda i: i, lambda i: 7], ids=["from 0", "all alike"])
def test_annotation_ids_do_not_matter(ground_truth, renumber, backend):
    """Id 0 means "not matched" to both libraries, and of annotations with one id they know the last only."""
    content = {**ground_truth, "annotations": [{**a, "id": renumber(i)} for i, a in enumerate(ground_truth["annotations"])]}
    assert reference_ap(content, perfect(ground_truth), "bbox")[0] < 100
    assert coco_ap(content, perfect(ground_truth), "bbox", backend)["AP"] == pytest.approx(100)


@IOU_TYPES
@EITHER_BACKEND
def test_no_detections_score_zero(ground_truth, iou_type, backend):
    """A detector that finds nothing has AP 0; mmdet's metric and pycocotools' loadRes fail there."""
    ap = coco_ap(ground_truth, [], iou_type, backend)
    assert (ap["AP"], ap["APm"]) == (0, 0)


@EITHER_BACKEND
def test_without_objects_nothing_is_defined(ground_truth, backend):
    """Crowds only, and no annotations at all."""
    crowds = [{**a, "iscrowd": 1} for a in ground_truth["annotations"]]
    for objects in (crowds, []):
        ap = coco_ap({**ground_truth, "annotations": objects}, perfect(ground_truth), "segm", backend)
        assert all(math.isnan(value) for value in ap.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_detections_that_are_not_finite_are_refused(ground_truth, value):
    """The libraries' numbers would differ."""
    first, *others = perfect(ground_truth)
    for broken in ({**first, "score": value}, {**first, "bbox": [0.0, value, 1.0, 1.0]}):
        with pytest.raises(ValueError, match=str(value)):
            coco_ap(ground_truth, [broken, *others], "bbox")


def test_the_default_is_faster_coco_eval_where_it_is_installed(ground_truth, monkeypatch):
    """Without it pycocotools gives the same numbers; asked for by name, it is an error."""
    detections = noisy(ground_truth, np.random.default_rng(0))
    used = []
    evaluate = COCOeval.evaluate
    monkeypatch.setattr(COCOeval, "evaluate", lambda self: (used.append(REFERENCE), evaluate(self)))
    fast = coco_ap(ground_truth, detections, "segm")
    assert used == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    slow = coco_ap(ground_truth, detections, "segm")
    assert used == [REFERENCE]
    assert slow == pytest.approx(fast, abs=1e-12, nan_ok=True)
    with pytest.raises(ValueError, match="faster-coco-eval"):
        coco_ap(ground_truth, detections, "segm", FASTER)
    with pytest.raises(ValueError, match="'cocoapi'"):
        coco_ap(ground_truth, detections, "segm", "cocoapi")


@pytest.fixture
def metric(ground_truth, tmp_path):
    """Makes the metric of the synthetic set with categories renumbered with gaps, and returns it with its ground truth."""
    numbers = {category["id"]: 90 - 10 * i for i, category in enumerate(ground_truth["categories"])}
    content = {
        **ground_truth,
        "categories": [{**c, "id": numbers[c["id"]]} for c in ground_truth["categories"]],
        "annotations": [{**a, "category_id": numbers[a["category_id"]]} for a in ground_truth["annotations"]],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))

    def make(**options):
        options = dict(tasks=("bbox", "segm")) | options
        return METRIC_REGISTRY.build(dict(type="CocoAP", ann_file=str(tmp_path / "annotations.json"), **options)), content

    return make


def show(metric, content, images, found, mask_scores=None):
    """Gives the metric detections in COCO's result format as mmdet's detectors do, on some of the images."""
    labels = {category["id"]: label for label, category in enumerate(content["categories"])}
    for image in images:
        own = [d for d in found if d["image_id"] == image["id"]]
        boxes = torch.tensor([d["bbox"] for d in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [torch.from_numpy(rle_tools.decode(d["segmentation"])).bool() for d in own]
        metric.process({}, [dict(
            img_id=image["id"], ori_shape=(image["height"], image["width"]),
            pred_instances=dict(
                bboxes=boxes, scores=torch.tensor([d["score"] for d in own]),
                labels=torch.tensor([labels[d["category_id"]] for d in own], dtype=torch.long),
                masks=torch.stack(masks) if masks else torch.zeros(0, image["height"], image["width"], dtype=torch.bool),
                **({} if mask_scores is None else dict(mask_scores=torch.tensor([mask_scores(d) for d in own]))),
            ),
        )])


@EITHER_BACKEND
def test_pycocotools_scores_dumped_files_as_reported(metric, tmp_path, backend):
    """All six numbers of both tasks. Objects are sorted by size by their masks' areas: beside boxes, by the boxes'."""
    dump = tmp_path / "folder" / "predictions"
    built, content = metric(backend=backend, dump=str(dump))
    detections = noisy(content, np.random.default_rng(3))
    for detection in detections[::2]:  # a box over the border between small and medium, other than its mask
        detection["bbox"][2:] = [40.0, 40.0]
    show(built, content, content["images"], detections)
    found = built.evaluate(len(content["images"]))
    files = {task: tmp_path / "folder" / f"predictions.{task}.json" for task in ("bbox", "segm")}
    assert sorted(dump.parent.iterdir()) == sorted(files.values())
    for task, file in files.items():
        expected = untouched_ap(content, str(file), task)
        np.testing.assert_allclose([found[f"{task}_{name}"] for name in METRICS], expected, rtol=0, atol=1e-12)
    written = (json.loads(file.read_text()) for file in files.values())
    together = [{**box, **mask} for box, mask in zip(*written, strict=True)]
    assert untouched_ap(content, together, "segm") != pytest.approx(expected, nan_ok=True)


def test_masks_have_their_own_scores_where_there_are_some(metric):
    """As in mmdet's metric; boxes keep theirs."""
    _, content = metric()
    detections = noisy(content, np.random.default_rng(0))

    def metrics(found, **options):
        built, _ = metric()
        show(built, content, content["images"], found, **options)
        return built.evaluate(len(content["images"]))

    plain, both = metrics(detections), metrics(detections, mask_scores=lambda d: 1 - d["score"])
    other = metrics([{**d, "score": 1 - d["score"]} for d in detections])
    assert both["segm_AP"] == other["segm_AP"] != plain["segm_AP"]
    assert both["bbox_AP"] == plain["bbox_AP"] != other["bbox_AP"]


@EITHER_BACKEND
def test_a_perfect_detector_scores_100(metric, backend):
    """Category ids with gaps."""
    built, content = metric(backend=backend)
    show(built, content, content["images"], perfect(content))
    found = built.evaluate(len(content["images"]))
    assert (found["bbox_AP"], found["segm_AP"]) == pytest.approx((100, 100))


@pytest.mark.parametrize(("task", "lacking"), [("bbox", "masks"), ("segm", None)])
def test_one_task_alone(metric, tmp_path, task, lacking):
    """A detector without masks, and one whose masks alone count: the numbers of that task, by class, too, and one dump."""
    built, content = metric(tasks=(task,), dump=str(tmp_path / "alone"))
    detections = noisy(content, np.random.default_rng(4))
    show(built, content, content["images"], detections)
    for _, prediction in built.results:
        prediction.pop(lacking, None)
    found = built.evaluate(len(content["images"]))
    expected = module.coco_ap(content, detections, task)
    assert {name for name in found if "/" not in name} == {f"{task}_{name}" for name in METRICS}
    assert [found[f"{task}_{name}"] for name in METRICS] == pytest.approx(list(expected.metrics.values()), nan_ok=True)
    assert {name: found[f"{task}_AP/{name}"] for name in (c["name"] for c in content["categories"])} == pytest.approx(
        {c["name"]: expected.by_category[c["id"]] for c in content["categories"]}, nan_ok=True)
    assert [file.name for file in tmp_path.glob("alone*")] == [f"alone.{task}.json"]


def test_images_that_were_not_evaluated_are_an_error(metric):
    """Their objects would count as missed."""
    built, content = metric()
    show(built, content, content["images"][1:], perfect(content))
    with pytest.raises(ValueError, match=f"1 of {len(content['images'])} images have not been evaluated"):
        built.compute_metrics(built.results)
