"""Detections drawn: predictions against the evaluation's own, ground truth against pycocotools, choice of images, errors."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import loco_det.register  # noqa: F401  isort: skip

from loco_det.datasets.coco import load_annotations
from loco_det.datasets.splits import select_image_ids
from loco_det.experiment.evaluate import evaluate_checkpoint
from loco_det.experiment.experiment import DataDescription, _own_config
from loco_det.experiment.inputs import use_data_root
from loco_det.figures.detections import _label_place, draw_detections
from loco_det.figures.predictions import VAL_ANNOTATIONS, annotated_objects, find_detector, predict
from pretrain.engine.work_dir import init_work_dir
from pretrain.figures.style import save_figure
from pretrain.results.store import DETECTION, new_record
from tests.conftest import DEMO_ENCODER, ROOT, assert_one_line_error
from tests.loco_det.detection_runs import identity
from tests.loco_det.experiment.test_evaluate import build_detector

pytestmark = pytest.mark.repository

CPU = torch.device("cpu")
SCORE = 0.1


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory):
    """The demo's config on the small drawn set, with a work directory."""
    resolved = Config.fromfile(str(ROOT / "configs/mask_rcnn_loco_demo.py"), import_custom_modules=False)
    use_data_root(resolved, str(synthetic_root))
    resolved.work_dir = str(tmp_path_factory.mktemp("runs") / "loco")
    resolved.pretrained.checkpoint = None
    return resolved


@pytest.fixture(scope="module")
def run(config, synthetic_root):
    """A run directory as tools/train_det.py leaves it; a random box head finds things. Tests must not change it."""
    folder = Path(config.work_dir)
    content = load_annotations(synthetic_root / "annotations/instances_val2017.json", synthetic_root / "val2017")
    classes = [category["name"] for category in content["categories"]]
    (folder / "split_0").mkdir(parents=True)
    (folder / VAL_ANNOTATIONS).write_text(json.dumps(content))
    record = new_record(DETECTION, identity("loco", encoder=DEMO_ENCODER), dict(name=DETECTION), dataset="demo",
                        classes=classes, tasks=["bbox", "segm"], data_root=str(synthetic_root))
    init_work_dir(folder, _own_config(config, None, DataDescription(tuple(classes), 6, "train", "val")), record)
    torch.save({"state_dict": build_detector(config, classes).state_dict(), "detection": record, "meta": {}},
               folder / "split_0" / "epoch_1.pth")
    return folder


@pytest.fixture(scope="module")
def image_ids(run):
    return [image["id"] for image in json.loads((run / VAL_ANNOTATIONS).read_text())["images"]]


@pytest.mark.slow
def test_predictions_are_those_that_are_evaluated(run, config, image_ids, tmp_path):
    """Boxes, masks, labels and scores above the threshold equal the evaluation's dump; boxes are in the original image."""
    evaluate_checkpoint(config, run / "split_0/epoch_1.pth", tmp_path / "dump")
    detector = find_detector(run)
    found = predict(detector, image_ids[:3], SCORE, CPU)
    assert list(found) == image_ids[:3] and sum(map(len, found.values())) > 5
    places = {category["id"]: place for place, category in enumerate(detector.annotations["categories"])}
    dumped = [json.loads((tmp_path / f"dump.{task}.json").read_text()) for task in ("bbox", "segm")]
    for image_id, objects in found.items():
        boxes, masks = ([entry for entry in dump if entry["image_id"] == image_id and entry["score"] >= SCORE]
                        for dump in dumped)
        boxes.sort(key=lambda entry: -entry["score"])
        masks.sort(key=lambda entry: -entry["score"])
        np.testing.assert_allclose(objects.scores, [entry["score"] for entry in boxes], atol=1e-5)
        assert objects.labels.tolist() == [places[entry["category_id"]] for entry in boxes]
        expected = np.array([entry["bbox"] for entry in boxes])
        expected[:, 2:] += expected[:, :2]
        np.testing.assert_allclose(objects.boxes, expected, atol=1e-2)
        decoded = np.array([coco_mask.decode(entry["segmentation"]) for entry in masks], dtype=bool)
        assert (objects.masks != decoded).mean() < 1e-3


def test_ground_truth_is_that_of_the_annotations(run, image_ids):
    """Boxes, masks of every encoding, classes and crowds equal pycocotools', the largest boxes first."""
    detector = find_detector(run)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(run / VAL_ANNOTATIONS))
    for image_id in image_ids:
        objects = annotated_objects(detector, image_id)
        expected = sorted(coco.imgToAnns[image_id], key=lambda entry: -entry["bbox"][2] * entry["bbox"][3])
        assert [detector.classes[label] for label in objects.labels] == [
            coco.cats[entry["category_id"]]["name"] for entry in expected]
        np.testing.assert_allclose(objects.boxes[:, 2:] - objects.boxes[:, :2], [entry["bbox"][2:] for entry in expected])
        np.testing.assert_array_equal(objects.masks, [coco.annToMask(entry) for entry in expected])


@pytest.mark.slow
def test_rows_are_images_and_columns_detectors(run, image_ids, tmp_path):
    """The best objects above the threshold are shown, a checkpoint draws as its run, and files are equal byte for byte."""
    chosen = image_ids[1::-1]
    drawings = [draw_detections([run, run / "split_0/epoch_1.pth"], chosen, score_threshold=SCORE, most=2) for _ in range(2)]
    detector = find_detector(run)
    found = predict(detector, chosen, SCORE, CPU)
    assert min(map(len, found.values())) > 2
    axes = drawings[0].figure.axes
    titles = [ax.get_title() for ax in axes[:3]]
    assert titles[0] == "ground truth" and titles[1].endswith("/loco") and titles[2].endswith("epoch_1.pth")
    assert [ax.get_ylabel() for ax in axes[::3]] == list(map(str, chosen))
    truth = [len(annotated_objects(detector, image_id)) for image_id in chosen]
    assert [len(ax.patches) for ax in axes] == [n for count in truth for n in (count, 2, 2)]
    np.testing.assert_allclose(axes[1].patches[0].get_bbox().extents, found[chosen[0]].boxes[0], rtol=1e-5)
    files = [save_figure(drawing.figure, tmp_path / name) for drawing, name in zip(drawings, "ab", strict=True)]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    empty = draw_detections([run], count=1, score_threshold=1.0).figure.axes  # random images, nothing of such a score
    assert empty[0].get_ylabel() == str(select_image_ids(image_ids, 1, 0)[0])
    assert [text.get_text() for text in empty[1].texts] == ["none ≥ 1"]


def test_labels_keep_off_each_other():
    """Labels lie in the image and on no other; where there is no room, they are left out."""
    size, taken = np.array([40.0, 8.0]), []
    for box in [[10.0, 20, 40, 60], [12, 20, 42, 60], [90, 0, 100, 8], *[[48, 48, 52, 52]] * 20]:
        place = _label_place(np.array(box), size, (100, 80), taken)
        if place is None:
            break
        assert place.x0 >= 0 and place.y0 >= 0 and place.x1 <= 100 and place.y1 <= 80 and not place.count_overlaps(taken)
        taken.append(place)
    assert place is None and len(taken) >= 4


def test_bad_input(run, tmp_path):
    """What is missing is named, before any weights are read where that is possible."""
    with pytest.raises(FileNotFoundError, match="none"):
        find_detector(tmp_path / "none")
    with pytest.raises(ValueError, match="split_1 has no checkpoint"):
        find_detector(run, split=1)
    stray = tmp_path / "split_0/epoch_1.pth"
    stray.parent.mkdir()
    stray.symlink_to(run / "split_0/epoch_1.pth")
    with pytest.raises(ValueError, match="run.json"):
        find_detector(stray)
    with pytest.raises(ValueError, match="--data-root"):
        find_detector(run, data_root=tmp_path)
    with pytest.raises(ValueError, match="image 7 is not among"):
        draw_detections([run], [7])
    other = tmp_path / "other"
    shutil.copytree(run, other)
    content = json.loads((run / VAL_ANNOTATIONS).read_text())
    (other / VAL_ANNOTATIONS).write_text(json.dumps(content | dict(annotations=content["annotations"][1:])))
    with pytest.raises(ValueError, match="different data"):
        draw_detections([run, other])


@pytest.mark.slow
def test_nothing_in_a_run_directory_is_executed(run, image_ids, tmp_path, run_tool):
    """Python files beside the checkpoint, modules that the stored config names, and types that mmengine would import."""
    there, marker = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(run, there)
    code = f"open({str(marker)!r}, 'w').close()\nmodel = dict()\n"
    for folder in (there, there / "split_0", there / "split_0" / "20260101_000000" / "vis_data"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("20260101_000000.py", "config.py", "hostile.py", "sitecustomize.py"):
            (folder / name).write_text(code)
    record = json.loads((there / "run.json").read_text())
    record["config"]["custom_imports"]["imports"].append("hostile")
    (there / "run.json").write_text(json.dumps(record))
    arguments = ("--images", image_ids[0], "--out", tmp_path)
    drawn = run_tool("visualize", "detections", there, *arguments)
    assert drawn.returncode == 0, drawn.stderr
    for options in (dict(type="hostile.run"), dict(type="os.system", command=f"touch {marker}")):
        record["config"]["val_dataloader"]["dataset"]["pipeline"].append(options)
        (there / "run.json").write_text(json.dumps(record))
        assert_one_line_error(run_tool("visualize", "detections", there, *arguments), options["type"])
        record["config"]["val_dataloader"]["dataset"]["pipeline"].pop()
    assert not marker.exists()


@pytest.mark.slow
def test_the_tool_writes_the_figure(run, image_ids, tmp_path, run_tool):
    """``tools/visualize.py detections`` writes its files, and prints nothing but their names and the caption."""
    arguments = ("--images", image_ids[0], "--score", 0.5, "--most", 1, "--out", tmp_path)
    finished = run_tool("visualize", "detections", run, *arguments)
    printed = json.loads(finished.stdout)
    assert [Path(file).stat().st_size > 5000 for file in printed["files"]] == [True, True]
