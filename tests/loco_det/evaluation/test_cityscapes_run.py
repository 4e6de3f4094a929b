"""From a Cityscapes tree to both APs: the paper's protocol, with a smaller network and images, through the tools."""

from __future__ import annotations

import json

import pytest

from pretrain.results.store import read_record
from tests.conftest import ROOT, assert_one_line_error
from tests.loco_det.datasets.cityscapes_tree import ids_files, make_tree

pytestmark = pytest.mark.repository

CONFIG = f"""
_base_ = ["{ROOT}/configs/mask_rcnn_random_cityscapes.py"]
train_cfg = dict(max_epochs=1)
model = dict(
    backbone=dict(encoder=dict(type="resnet18")),
    neck=dict(out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32), mask_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, conv_out_channels=32, fc_out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32),
    ),
    test_cfg=dict(rcnn=dict(max_per_img=10)),
)
small = dict(type="Resize", scale=(128, 96), keep_ratio=True)
train_pipeline = [dict(type="LoadImage"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True), small,
                  dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]
test_pipeline = [dict(type="LoadImage"), small, dict(
    type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))]
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
"""


@pytest.mark.slow
def test_cityscapes_has_both_aps(tmp_path, run_tool):
    """Trained, evaluated by COCO's and the official AP, and by test_det to the same numbers."""
    root, config, work_dir = make_tree(tmp_path / "cityscapes"), tmp_path / "config.py", tmp_path / "w"
    config.write_text(CONFIG)
    finished = run_tool("train_det", config, "--data-root", root, "--work-dir", work_dir)
    assert finished.returncode == 0, finished.stderr
    experiment, split = (read_record(folder / "run.json").content for folder in (work_dir, work_dir / "split_0"))
    assert (experiment["dataset"], experiment["tasks"]) == ("cityscapes", ["bbox", "segm", "official"])
    assert split["num_train_images"] == 5
    measured = {row["metric"]: row["value"] for row in split["rows"] if "class_name" not in row}
    assert {"official_AP", "official_AP50"} <= measured.keys() and len(measured) == 14
    tested = run_tool("test_det", config, work_dir / "split_0" / "epoch_1.pth", "--data-root", root)
    assert tested.returncode == 0, tested.stderr
    metrics = json.loads(tested.stdout)
    assert {f"{task}_{name}": value for task in experiment["tasks"] for name, value in metrics[task].items()} == measured


def test_missing_ground_truth_is_told_before_training(tmp_path, run_tool):
    """An instanceIds file of val is gone: the official AP could not be computed at the end of 64 epochs."""
    root, config = make_tree(tmp_path / "cityscapes"), tmp_path / "config.py"
    config.write_text(CONFIG)
    ids_files(root, "val")[0].unlink()
    finished = run_tool("train_det", config, "--data-root", root, "--work-dir", tmp_path / "w")
    assert_one_line_error(finished, "1 of 5 images", "gtFine_trainvaltest.zip")
    assert not (tmp_path / "w").exists()
