"""Cityscapes' official AP through the metric, against cityscapesscripts run as its own tool is, and COCO's AP beside it."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import pickle
import shutil
import tempfile

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as official
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

import loco_det.register  # noqa: F401  isort: skip
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData
from torchvision.ops import masks_to_boxes

from loco_det.datasets.cityscapes import CLASSES, annotation_file
from tests.loco_det.datasets.cityscapes_tree import SIZE, draw_instance_ids, ids_files, make_tree, write_pair


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A converted tree; tests must not change it."""
    return make_tree(tmp_path_factory.mktemp("cityscapes"))


@pytest.fixture(scope="module")
def annotations(root):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotation_file(root, "val")))


def make_metric(root, classes=CLASSES):
    """As a config names it."""
    metric = METRICS.build(dict(type="CityscapesAP", ground_truth=str(root / "gtFine" / "val"), classes=classes))
    metric.dataset_meta = dict(classes=classes)
    return metric


def sample(root, name, masks, labels, scores):
    """What mmdet hands to a metric for an image."""
    predicted = dict(
        masks=torch.as_tensor(np.array(masks, bool)).reshape(-1, *SIZE),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.tensor(scores, dtype=torch.float32),
    )
    return dict(img_path=str(root / "leftImg8bit" / "val" / name), pred_instances=predicted)


def perfect_samples(root, annotations, groups=False):
    """Every object that is not a group region, as a prediction."""
    samples = []
    for image in annotations.loadImgs(annotations.getImgIds()):
        found = [a for a in annotations.imgToAnns[image["id"]] if groups or not a["iscrowd"]]
        masks = [annotations.annToMask(a) for a in found]
        labels = [annotations.getCatIds().index(a["category_id"]) for a in found]
        samples.append(sample(root, image["file_name"], masks, labels, [0.9] * len(found)))
    return samples


def noisy_samples(root, annotations):
    """Objects moved by some pixels, of wrong classes, twice, and made up, with scores of all kinds."""
    rng = np.random.default_rng(0)
    samples = perfect_samples(root, annotations, groups=True)
    for predicted in (s["pred_instances"] for s in samples):
        noise = torch.zeros(3, *SIZE, dtype=torch.bool)
        noise[0, 10:30, 10:30], noise[1, :, :60] = True, True  # and an empty one
        shifted = [m.roll(tuple(rng.integers(-2, 3, 2)), (0, 1)) for m in predicted["masks"]]
        predicted["masks"] = torch.stack([*shifted, *predicted["masks"][::3], *noise])
        labels = torch.cat([predicted["labels"], predicted["labels"][::3], torch.tensor([2, 0, 1])])
        wrong = torch.as_tensor(rng.random(len(labels)) < 0.2)
        predicted["labels"] = torch.where(wrong, torch.as_tensor(rng.integers(0, 8, len(labels))), labels)
        predicted["scores"] = torch.as_tensor(rng.random(len(labels)), dtype=torch.float32)
    return samples


def evaluate(metric, samples):
    """As mmengine does, in batches of two."""
    for start in range(0, len(samples), 2):
        metric.process({}, samples[start:start + 2])
    return metric.evaluate(len(samples))


def reference_ap(root, samples, folder):
    """cityscapesscripts' ``evaluateImgLists`` on a folder of result files, as its documentation describes them."""
    tables, truth = [], []
    for number, s in enumerate(samples):
        table = folder / f"{number}.txt"
        predicted = s["pred_instances"]
        with table.open("w") as file:
            for i, mask in enumerate(predicted["masks"]):
                Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(folder / f"{number}_{i}.png")
                label_id = official.name2label[CLASSES[predicted["labels"][i]]].id
                file.write(f"{number}_{i}.png {label_id} {predicted['scores'][i].item()}\n")
        tables.append(str(table))
        truth.append(s["img_path"].replace("leftImg8bit.png", "gtFine_instanceIds.png").replace("leftImg8bit", "gtFine"))
    args = copy.copy(official.args)
    args.predictionPath, args.gtInstancesFile = str(folder), str(folder / "gtInstances.json")
    args.quiet, args.JSONOutput = True, False
    averages = official.evaluateImgLists(tables, truth, args)["averages"]
    return {"official_AP": 100 * averages["allAp"], "official_AP50": 100 * averages["allAp50%"]}


def test_the_ground_truth_scores_exactly_100(root, annotations):
    """Of every image, the one without objects and the cities of other names included."""
    assert evaluate(make_metric(root), perfect_samples(root, annotations)) == {"official_AP": 100, "official_AP50": 100}


def test_mmengines_evaluator_feeds_it(root, annotations):
    """With mmdet's own data samples, beside another metric."""
    evaluator = Evaluator([make_metric(root), CocoMetric(ann_file=str(annotation_file(root, "val")), metric="segm")])
    evaluator.dataset_meta = dict(classes=CLASSES)
    samples = perfect_samples(root, annotations)
    for image, s in zip(annotations.imgs.values(), samples, strict=True):
        boxes = masks_to_boxes(s["pred_instances"]["masks"]) if len(s["pred_instances"]["masks"]) else torch.zeros(0, 4)
        meta = dict(img_path=s["img_path"], img_id=image["id"], ori_shape=SIZE)
        data_sample = DetDataSample(metainfo=meta, pred_instances=InstanceData(**s["pred_instances"], bboxes=boxes))
        evaluator.process([data_sample])
    metrics = evaluator.evaluate(len(samples))
    assert metrics["official_AP"] == 100
    assert metrics["coco/segm_mAP"] == 1


def test_predicted_group_regions_cost_nothing(root, annotations):
    """They are ignored, as the benchmark says."""
    assert evaluate(make_metric(root), perfect_samples(root, annotations, groups=True))["official_AP"] == 100


def test_half_of_the_objects_scores_less(root, annotations):
    """But not nothing."""
    samples = perfect_samples(root, annotations)
    for predicted in (s["pred_instances"] for s in samples):
        for key in predicted:
            predicted[key] = predicted[key][::2]
    assert 20 < evaluate(make_metric(root), samples)["official_AP"] < 80


def test_noisy_predictions_score_what_cityscapesscripts_says(root, annotations, tmp_path, monkeypatch):
    """Wrong classes, duplicates, empty masks, false positives on group regions and unlabelled pixels; to the last digit."""
    monkeypatch.chdir(tmp_path)  # evaluateImgLists writes there
    samples = noisy_samples(root, annotations)
    expected = reference_ap(root, samples, tmp_path)
    assert 0 < expected["official_AP"] < 90
    assert evaluate(make_metric(root), samples) == expected


def test_a_mask_score_goes_before_the_boxs(root, annotations):
    """As mmdet's own metric does for detectors that have one."""
    plain, with_mask_scores = noisy_samples(root, annotations), noisy_samples(root, annotations)
    for predicted in (s["pred_instances"] for s in with_mask_scores):
        predicted["mask_scores"], predicted["scores"] = predicted["scores"], torch.zeros_like(predicted["scores"])
    assert evaluate(make_metric(root), with_mask_scores) == evaluate(make_metric(root), plain)


def test_processes_share_the_images(root, annotations):
    """What they collect survives pickling, in any order and with the repeated images that even out their shares."""
    samples = noisy_samples(root, annotations)
    shares = [make_metric(root), make_metric(root)]
    shares[0].process({}, samples[::2])
    shares[1].process({}, [*samples[1::2], samples[0]])
    collected = pickle.loads(pickle.dumps(shares[1].results + shares[0].results))
    assert max(len(pickle.dumps(result)) for result in collected) < 6000  # no dense masks, 12,288 bytes each
    assert shares[0].compute_metrics(collected) == evaluate(make_metric(root), samples)


def test_no_file_is_left(root, annotations, tmp_path, monkeypatch):
    """Neither in the current folder nor among the temporary ones, nor in cityscapesscripts' global settings."""
    temporary, current = tmp_path / "temporary", tmp_path / "current"
    temporary.mkdir()
    current.mkdir()
    monkeypatch.chdir(current)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before = copy.copy(vars(official.args))
    evaluate(make_metric(root), noisy_samples(root, annotations))
    assert not list(temporary.iterdir())
    assert not list(current.iterdir())
    assert vars(official.args) == before


def test_nothing_found_and_nothing_there(root, annotations, tmp_path):
    """No prediction is AP 0; without objects there is no AP."""
    nothing = [sample(root, image["file_name"], [], [], []) for image in annotations.imgs.values()]
    assert evaluate(make_metric(root), nothing) == {"official_AP": 0, "official_AP50": 0}
    write_pair(tmp_path, "val", "lindau/lindau_000000_000019", draw_instance_ids(0, things=False))
    ap = evaluate(make_metric(tmp_path), [sample(tmp_path, "lindau/lindau_000000_000019_leftImg8bit.png", [], [], [])])
    assert all(isinstance(value, np.float64) and math.isnan(value) for value in ap.values())


def test_truncated_ground_truth_is_named(root, annotations, tmp_path):
    """With its file."""
    copied = shutil.copytree(root, tmp_path / "copied")
    file = ids_files(copied, "val")[1]
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match="frankfurt_000001_000019_gtFine_instanceIds.png cannot be decoded"):
        evaluate(make_metric(copied), perfect_samples(copied, annotations))


def test_bad_predictions_are_refused(root, annotations, tmp_path):
    """Other classes, images without ground truth, masks of another size: never a number."""
    with pytest.raises(ValueError, match="class 'vehicle'"):
        make_metric(root, classes=("person", "vehicle"))
    samples = perfect_samples(root, annotations)
    with pytest.raises(ValueError, match="_gtFine_instanceIds.png"):
        evaluate(make_metric(tmp_path), samples)
    samples[0]["pred_instances"]["masks"] = samples[0]["pred_instances"]["masks"][:, :50]
    with pytest.raises(ValueError, match="128 x 96 .* 128 x 50"):
        evaluate(make_metric(root), samples)
