"""Evaluating a detector's checkpoint: the numbers, the dump, strict loading, bad input."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, DefaultScope
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import loco_det.register  # noqa: F401  isort: skip
from loco_det.evaluation.coco_ap import METRICS
from loco_det.experiment.config import dataset_options, detector_config
from loco_det.experiment.evaluate import evaluate_checkpoint
from loco_det.experiment.experiment import Experiment
from loco_det.experiment.inputs import use_data_root
from pretrain.encoders import build_encoder
from pretrain.results.store import read_record
from tests.conftest import DEMO_ENCODER, ROOT, assert_one_line_error
from tests.loco_det.datasets.cityscapes_tree import ids_files, make_tree

pytestmark = pytest.mark.repository

CONFIG = "configs/mask_rcnn_loco_demo.py"
VAL = "annotations/instances_val2017.json"


@pytest.fixture(scope="module")
def config(synthetic_root):
    """The demo's config on the small synthetic set; its backbone file does not exist. Tests must not change it."""
    resolved = Config.fromfile(str(ROOT / CONFIG), import_custom_modules=False)
    use_data_root(resolved, str(synthetic_root))
    resolved.pretrained.checkpoint = "no/backbone.pth"
    return resolved


@pytest.fixture(scope="module")
def classes(synthetic_root):
    return [category["name"] for category in json.loads((synthetic_root / VAL).read_text())["categories"]]


def build_detector(config, classes):
    """The config's detector from random weights, some of which let it find something."""
    options = detector_config(config, classes)
    options["backbone"]["checkpoint"] = None
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(ConfigDict(options))
    for parameter in model.roi_head.bbox_head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(config, classes, tmp_path_factory):
    """A detector as ``tools/train_det.py`` saves it."""
    record = dict(setting=dict(encoder=DEMO_ENCODER), classes=classes)
    path = tmp_path_factory.mktemp("detector") / "epoch_1.pth"
    torch.save({"state_dict": build_detector(config, classes).state_dict(), "detection": record, "meta": {}}, path)
    return path


@pytest.fixture(scope="module")
def evaluated(config, checkpoint):
    """The checkpoint's metrics and the prefix of the files of its predictions."""
    dump = checkpoint.with_name("predictions")
    return evaluate_checkpoint(config, checkpoint, dump), dump


def validation_part(synthetic_root, root, content):
    """A data set of nothing but validation images and these annotations."""
    (root / "annotations").mkdir(parents=True)
    (root / VAL).write_text(json.dumps(content))
    (root / "val2017").symlink_to(synthetic_root / "val2017")
    return root


def predict(config, classes, root, state_dict):
    """Boxes and scores by image id of a detector that a plain loop runs over mmdet's data set."""
    options = config.val_dataloader.dataset.to_dict()
    options |= dataset_options(root / VAL, root / config.data.val_images, classes)
    model = build_detector(config, classes)
    model.load_state_dict(state_dict)
    with DefaultScope.overwrite_default_scope("mmdet"), torch.no_grad():
        dataset = DATASETS.build(options)
        samples = [dataset[i] for i in range(len(dataset))]
        found = [model.test_step({key: [sample[key]] for key in sample})[0] for sample in samples]
    return {sample.img_id: (sample.pred_instances.bboxes.numpy(), sample.pred_instances.scores.numpy()) for sample in found}


def test_numbers_and_dump_are_those_of_the_checkpoints_detector(evaluated, config, checkpoint, classes, synthetic_root):
    """Boxes equal a plain loop's over the images, AP pycocotools' on the dumped file; no backbone file is read."""
    result, dump = evaluated
    expected = predict(config, classes, synthetic_root, torch.load(checkpoint, weights_only=True)["state_dict"])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(synthetic_root / VAL))
        found = truth.loadRes(f"{dump}.bbox.json")
        for task, results in (("bbox", found), ("segm", truth.loadRes(f"{dump}.segm.json"))):
            evaluation = COCOeval(truth, results, task)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            points = [100 * value if value > -1 else None for value in evaluation.stats[:6]]
            assert list(result[task].values()) == pytest.approx(points, abs=1e-12)
    assert result["images"] == len(expected) == 6
    assert len(found.anns) == sum(len(scores) for _, scores in expected.values()) > 20
    for image_id, (boxes, scores) in expected.items():
        own = found.imgToAnns[image_id]
        np.testing.assert_allclose([d["score"] for d in own], scores, atol=1e-5)
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_allclose([d["bbox"] for d in own], boxes, atol=1e-3)
    assert list(result["bbox"]) == list(result["segm"]) == list(METRICS)
    assert list(result["per_class"]["segm"]) == classes and "official" not in result
    json.dumps(result, allow_nan=False)


def test_a_bare_state_dict_and_the_validation_data_are_enough(evaluated, config, checkpoint, synthetic_root, tmp_path):
    """An exported detector, without a record, and no training images; pycocotools has the same numbers."""
    bare = tmp_path / "detector.pth"
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], bare)
    content = json.loads((synthetic_root / VAL).read_text())
    there = copy.deepcopy(config)
    use_data_root(there, str(validation_part(synthetic_root, tmp_path / "set", content)))
    result = evaluate_checkpoint(there, bare, backend="pycocotools")
    assert result["sha256"] != evaluated[0]["sha256"]
    for task in ("bbox", "segm"):
        assert result[task] == pytest.approx(evaluated[0][task], abs=1e-12)


def of_resnet34(content):
    content["detection"]["setting"]["encoder"] = dict(type="resnet34")


def of_other_classes(content):
    content["detection"]["classes"] = ["cat", "dog", "cow", "owl"]


def of_more_classes_without_record(content):
    del content["detection"]
    content["state_dict"]["roi_head.bbox_head.fc_cls.weight"] = torch.zeros(81, 128)


def with_renamed_key(content):
    content["state_dict"]["backbone.body.conv1.weight"] = content["state_dict"].pop("backbone.encoder.conv1.weight")


def diverged(content):
    content["state_dict"]["rpn_head.rpn_cls.bias"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_resnet34, "holds the encoder resnet34, but resnet18"),
        (of_other_classes, r"trained on 4 classes \(cat, dog, cow, owl\), but .* has 4 classes \(vertical_top"),
        (of_more_classes_without_record, r"1 of another shape \(roi_head.bbox_head.fc_cls.weight\)"),
        (with_renamed_key, r"1 missing \(backbone.encoder.conv1.weight\); 1 unexpected \(backbone.body.conv1.weight\)"),
        (diverged, r"1 not finite \(rpn_head.rpn_cls.bias\)"),
    ],
)
def test_a_checkpoint_of_another_detector_is_refused(change, message, config, checkpoint, tmp_path):
    """Nothing is loaded in part; classes of equal number are distinguished by name."""
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "changed.pth")
    with pytest.raises(ValueError, match=message):
        evaluate_checkpoint(config, tmp_path / "changed.pth")


def test_files_that_are_not_detectors_are_refused(config, tmp_path):
    """A backbone, and no file at all."""
    torch.save({"state_dict": build_encoder(DEMO_ENCODER).state_dict()}, tmp_path / "backbone.pth")
    for file in (tmp_path / "backbone.pth", tmp_path / "no.pth"):
        with pytest.raises(ValueError, match=file.name):
            evaluate_checkpoint(config, file)


def test_a_place_that_cannot_be_written_to_is_reported_before_the_evaluation(config, tmp_path):
    """A folder, and a file in the place of one; before even the checkpoint is read."""
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a folder"):
        evaluate_checkpoint(config, "no/epoch_1.pth", dump=tmp_path)
    with pytest.raises(ValueError, match="cannot write to .*file"):
        evaluate_checkpoint(config, "no/epoch_1.pth", dump=tmp_path / "file" / "predictions")


def test_processes_that_do_not_share_the_images_are_refused(config, checkpoint, monkeypatch):
    """Under torchrun with ``--launcher none`` each would evaluate all of them, and write the same files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for run in (lambda: evaluate_checkpoint(config, checkpoint), lambda: Experiment(config)):
        with pytest.raises(ValueError, match="WORLD_SIZE is 2, but every process would do all of the work alone"):
            run()


def test_missing_ground_truth_of_cityscapes_is_reported_before_the_evaluation(config, checkpoint, tmp_path):
    """The official AP comes last, and its failure would take COCO's with it."""
    root = make_tree(tmp_path / "cityscapes")
    ids_files(root, "val")[2].unlink()
    there = copy.deepcopy(config)
    use_data_root(there, str(root))
    there.data.update(val_ann="annotations/instancesonly_filtered_gtFine_val.json", val_images="leftImg8bit/val",
                      official_gt="gtFine/val")
    with pytest.raises(ValueError, match="1 of 5 images"):
        evaluate_checkpoint(there, checkpoint)


@pytest.mark.slow
def test_the_tool_prints_the_numbers_of_the_training_run(synthetic_root, tmp_path, run_tool):
    """A detector trained by ``tools/train_det.py`` gets the metrics of its record: stdout is one JSON object."""
    trained = run_tool("train_det", "configs/mask_rcnn_random_demo.py", "--data-root", synthetic_root, "--work-dir",
                       tmp_path / "w", "--splits", 0, "--cfg-options", "protocol.split_size=8", "train_cfg.max_iters=4")
    assert trained.returncode == 0, trained.stderr
    split = tmp_path / "w" / "split_0"
    file, = split.glob("epoch_*.pth")
    tested = run_tool("test_det", "configs/mask_rcnn_random_demo.py", file, "--data-root", synthetic_root,
                      "--backend", "pycocotools", "--dump", tmp_path / "predictions")
    assert tested.returncode == 0, tested.stderr
    printed, rows = json.loads(tested.stdout), read_record(split / "run.json").content["rows"]
    for row in rows:
        task, _, name = row["metric"].partition("_")
        found = printed["per_class"][task][row["class_name"]] if "class_name" in row else printed[task][name]
        assert found == pytest.approx(row["value"], abs=1e-12)
    assert len(rows) == 2 * (6 + 4)
    for task in ("bbox", "segm"):
        assert isinstance(json.loads((tmp_path / f"predictions.{task}.json").read_text()), list)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(config, checkpoint, synthetic_root, tmp_path, run_tool):
    """Five images, which two processes cannot share evenly: one of them is evaluated twice and counts once."""
    content = json.loads((synthetic_root / VAL).read_text())
    left_out = content["images"].pop()["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != left_out]
    root = validation_part(synthetic_root, tmp_path / "set", content)
    there = copy.deepcopy(config)
    use_data_root(there, str(root))
    alone = evaluate_checkpoint(there, checkpoint, tmp_path / "one")
    finished = run_tool("test_det", CONFIG, checkpoint, "--data-root", root, "--dump", tmp_path / "two", "--cfg-options",
                        "val_dataloader.batch_size=1", processes=2)
    assert finished.returncode == 0, finished.stderr
    together = json.loads(finished.stdout)
    for task in ("bbox", "segm"):
        assert together[task] == pytest.approx(alone[task], abs=1e-6)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.bbox.json", "two.bbox.json"))
    assert [d["image_id"] for d in one] == [d["image_id"] for d in two]
    np.testing.assert_allclose([d["score"] for d in two], [d["score"] for d in one], atol=1e-5)


def test_a_pretraining_config_is_one_line(run_tool):
    """Says which configs are of the tool's kind."""
    finished = run_tool("test_det", "configs/pretrain/loco_resnet18_demo.py", "epoch_1.pth")
    assert_one_line_error(finished, "is not one for this tool", "configs/mask_rcnn_*.py")


def test_missing_data_are_one_line(checkpoint, run_tool):
    """Names what is missing of the validation set only, and where to get it."""
    finished = run_tool("test_det", "configs/mask_rcnn_loco_coco.py", checkpoint, "--data-root", "no/data")
    assert_one_line_error(finished, "no/data/annotations/instances_val2017.json", "no/data/val2017", "cocodataset.org")
    assert "train2017.json" not in finished.stderr
