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
from loco_det.figures.detections import CHARACTER, LINE, MAX_COVERED, _label_places, _overlap, draw_detections
from loco_det.figures.predictions import VAL_ANNOTATIONS, annotated_objects, find_detector, predict
from pretrain.engine.work_dir import init_work_dir
from pretrain.figures.class_style import CLASS_COLORS, class_color, class_marker, is_dark
from pretrain.figures.style import save_figure
from pretrain.results.store import DETECTION, new_record
from tests.conftest import ROOT, assert_one_line_error
from tests.loco_det.detection_runs import identity
from tests.loco_det.experiment.test_evaluate import build_detector

CPU = torch.device("cpu")
SCORE = 0.3


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
    record = new_record(DETECTION, identity("loco", encoder="resnet18"), dict(name=DETECTION), dataset="demo",
                        classes=classes, data_root=str(synthetic_root))
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
        assert objects.crowd.tolist() == [bool(entry["iscrowd"]) for entry in expected]


@pytest.mark.slow
def test_rows_are_images_and_columns_detectors(run, image_ids):
    """Counts are of what is above the threshold, however many are shown; a checkpoint draws as its run."""
    chosen = image_ids[1::-1]
    drawing = draw_detections([run, run / "split_0/epoch_1.pth"], chosen, score_threshold=SCORE, most=2)
    numbers, detector = drawing.numbers, find_detector(run)
    found = predict(detector, chosen, SCORE, CPU)
    counts = [len(found[image_id]) for image_id in chosen]
    assert numbers["images"] == chosen and min(counts) > 2
    assert [entry["detections"] for entry in numbers["detectors"]] == [counts, counts]
    assert numbers["ground_truth"] == [len(annotated_objects(detector, image_id)) for image_id in chosen]
    axes = drawing.figure.axes
    assert [axis.get_title() for axis in axes[:3]] == ["ground truth", "LoCo\nloco", "LoCo\nepoch_1"]
    assert [axis.get_ylabel() for axis in axes[::3]] == list(map(str, chosen))
    assert [len(axis.patches) for axis in axes] == [n for truth in numbers["ground_truth"] for n in (truth, 2, 2)]
    np.testing.assert_allclose(axes[1].patches[0].get_bbox().extents, found[chosen[0]].boxes[0], rtol=1e-5)


@pytest.mark.slow
def test_random_images_and_files_are_the_same_anywhere(run, image_ids, tmp_path):
    """Images are those that the project's hash of seed and id ranks first; a second drawing has the same bytes."""
    drawings = [draw_detections([run], count=1, seed=3, most=3) for _ in range(2)]
    assert drawings[0].numbers["images"] == select_image_ids(image_ids, 1, 3)
    files = [save_figure(drawing.figure, tmp_path / name) for drawing, name in zip(drawings, "ab", strict=True)]
    for first, second in zip(*files, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_labels_keep_off_each_other():
    """Labels lie in the image and cover each other little; where there is no room, they are left out."""
    boxes = np.array([[10.0, 20, 40, 60], [12, 20, 42, 60], [90, 0, 100, 8]] + [[48, 48, 52, 52]] * 20)
    texts = ["striped_disc 0.95"] * len(boxes)
    places = _label_places(boxes, texts, (100, 80), pixels_per_inch=70)
    shown = [place for place in places if place is not None]
    assert None in places and len(shown) >= 4 and places[0] is not None and places[1] is not None
    width, height = (len(texts[0]) * CHARACTER + 0.04) * 70, LINE * 70
    rectangles = [(x, y, x + width, y + height) for x, y in shown]
    for index, rectangle in enumerate(rectangles):
        assert rectangle[0] >= 0 and rectangle[1] >= 0 and rectangle[2] <= 100 + 1e-9 and rectangle[3] <= 80 + 1e-9
        assert sum(_overlap(rectangle, other) for other in rectangles[:index]) <= MAX_COVERED * width * height + 1e-9


def test_classes_are_told_apart():
    """A hundred classes differ in colour or marker, and the text on a colour is the one of the higher contrast."""
    assert len({(class_color(index), class_marker(index)) for index in range(100)}) == 100
    assert is_dark("#332288") and not is_dark("#DDCC77") and len(set(CLASS_COLORS)) == 10


def test_bad_input(run, tmp_path):
    """What is missing is named with the mend, before any weights are read where that is possible."""
    with pytest.raises(FileNotFoundError, match="pass a run directory"):
        find_detector(tmp_path / "none")
    with pytest.raises(ValueError, match="split_1 has no checkpoint; choose one of split_0 with --split"):
        find_detector(run, split=1)
    with pytest.raises(ValueError, match="has no checkpoint; pass a run directory of tools/train_det.py"):
        find_detector(tmp_path)
    stray = tmp_path / "split_0/epoch_1.pth"
    stray.parent.mkdir()
    stray.symlink_to(run / "split_0/epoch_1.pth")
    with pytest.raises(ValueError, match="does not lie in a run directory"):
        find_detector(stray)
    with pytest.raises(ValueError, match="say with --data-root where the data set is"):
        find_detector(run, data_root=tmp_path)
    with pytest.raises(ValueError, match="image 7 is not among the 6 validation images"):
        draw_detections([run], [7])
    with pytest.raises(ValueError, match="choose 1 to 6"):
        draw_detections([run], count=7)
    with pytest.raises(ValueError, match="score threshold is 30"):
        draw_detections([run], score_threshold=30)
    with pytest.raises(ValueError, match="at least 1 is needed"):
        draw_detections([run], most=0)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    content = json.loads((run / VAL_ANNOTATIONS).read_text())
    (other / VAL_ANNOTATIONS).write_text(json.dumps(content | dict(annotations=content["annotations"][1:])))
    with pytest.raises(ValueError, match="different data .their annotations differ"):
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
    assert [Path(file).stat().st_size > 5000 for file in printed["files"]] == [True, True, False]
    assert json.loads((tmp_path / "detections.json").read_text())["images"] == image_ids[:1]


@pytest.mark.slow
def test_an_image_in_which_nothing_is_found_says_so(run, image_ids, tmp_path, run_tool):
    """The threshold and the best score stand in it, ground truth stays bare, and stderr says what to try."""
    arguments = ("--images", *image_ids[:2], "--score", 1.0, "--out", tmp_path)
    finished = run_tool("visualize", "detections", run, *arguments)
    [detector] = json.loads((tmp_path / "detections.json").read_text())["detectors"]
    best = predict(find_detector(run), image_ids[:2], 0.0, CPU)
    assert detector["best_scores"] == pytest.approx([float(best[image_id].scores.max()) for image_id in image_ids[:2]])
    assert detector["detections"] == [0, 0]
    assert f"(best {max(detector['best_scores']):.2g}); try a lower --score" in finished.stderr
    axes = draw_detections([run], image_ids[:2], score_threshold=1.0).figure.axes
    texts = [[text.get_text() for text in axis.texts if "none" in text.get_text()] for axis in axes]
    expected = [[f"none ≥ 1\n(best {score:.2g})"] for score in detector["best_scores"]]
    assert texts == [[], expected[0], [], expected[1]]
