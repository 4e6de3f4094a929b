"""Detection experiments through the tool: splits, records, frozen backbones, any backbone file, bad input."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from loco_det.datasets.splits import image_ids_sha256, select_image_ids
from loco_det.evaluation.coco_ap import METRICS
from loco_det.experiment.experiment import DataDescription, _own_config
from loco_det.experiment.inputs import check_backbone, detection_configs, use_pretrained
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import FORMAT, load_checkpoint
from pretrain.engine.claim import claim_run
from pretrain.engine.work_dir import config_fingerprint
from pretrain.results.method import standard_method
from pretrain.results.store import read_record, read_rows
from tests.conftest import DEMO_ENCODER, ROOT, TINY_SET, assert_one_line_error
from tests.pretrain.fault_hook import fault
from tests.pretrain.processes import run_script

pytestmark = pytest.mark.repository

RANDOM, LOCO, ANY = (f"configs/mask_rcnn_{name}.py" for name in ("random_demo", "loco_demo", "demo"))
SMALL = ["protocol.split_size=8", "train_cfg.max_iters=2", "model.test_cfg.rcnn.max_per_img=10"]

FINE_TUNED = f"""
_base_ = ["{ROOT}/{RANDOM}"]
custom_imports = dict(imports=["loco_det.register", "tests.pretrain.fault_hook"])
custom_hooks = [dict(type="FaultHook")]
protocol = dict(split_size=8)
train_cfg = dict(max_iters=6)
default_hooks = dict(checkpoint=dict(interval_iters=2), logger=dict(interval=1))
model = dict(
    backbone=dict(encoder=dict(width=16), frozen_stages=1, norm_eval=False, sync_bn=True, cache_mib=0),
    test_cfg=dict(rcnn=dict(max_per_img=10)),
)
"""


def write_backbone(path: Path, rule: str | Mapping = "loco", encoder: Mapping = DEMO_ENCODER) -> Path:
    """An exported backbone of random weights, with the record of a finished pretraining."""
    torch.manual_seed(0)
    meta = dict(format=FORMAT, method=standard_method(rule), setting=dict(encoder=dict(encoder), epochs=5),
                repetition=dict(seed=7), epoch=5, argv=["tools/export_backbone.py", path.name])
    torch.save({"state_dict": build_encoder(encoder).state_dict(), "meta": meta}, path)
    return path


def measured(work_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The measurements of every finished split, by folder."""
    return {file.parent.name: read_record(file).content["rows"] for file in sorted(work_dir.glob("split_*/run.json"))}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbones") / "loco.pth")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, synthetic_root, backbone):
    """Splits 1 and 3 of a pretrained run, in a work directory of their own; returns (work_dir, process)."""
    work_dir = tmp_path_factory.mktemp("det") / "loco"
    arguments = [LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir, "--splits", 3, 1,
                 "--cfg-options", *SMALL]
    process = run_script("tools/train_det.py", list(map(str, arguments)), work_dir.with_name("log"), {})
    assert process.returncode == 0, process.stderr
    return work_dir, process


@pytest.mark.slow
def test_records_hold_the_splits_that_ran(finished, synthetic_root, backbone):
    """Ids are the pure function of ids and seed; method and setting are the file's; what is missing has no value."""
    work_dir, process = finished
    assert process.stdout.strip() == str(work_dir / "run.json")
    experiment = read_record(work_dir / "run.json").content
    exported = torch.load(backbone, weights_only=True)["meta"]
    assert experiment["method"] == exported["method"]
    assert experiment["setting"] == exported["setting"]
    assert experiment["protocol"]["frozen_stages"] == "all"
    assert (experiment["dataset"], experiment["num_splits"], experiment["tasks"]) == ("demo", 5, ["bbox", "segm"])
    assert experiment["backbone"] == dict(path=str(backbone), argv=exported["argv"],
                                          sha256=hashlib.sha256(backbone.read_bytes()).hexdigest())
    assert (experiment["repetition"], experiment["rows"]) == ({"seed": 7}, [])
    assert experiment["argv"][1] == LOCO and experiment["data_root"] == str(synthetic_root)
    content = json.loads((synthetic_root / "annotations" / "instances_train2017.json").read_text())
    val_file = synthetic_root / "annotations" / "instances_val2017.json"
    for index in (1, 3):
        split = read_record(work_dir / f"split_{index}" / "run.json").content
        ids = select_image_ids([image["id"] for image in content["images"]], 8, seed=index)
        assert split["image_ids_sha256"] == image_ids_sha256(ids)
        assert json.loads((work_dir / f"split_{index}" / "image_ids.json").read_text())["image_ids"] == ids
        assert (split["seed"], split["num_train_images"], split["num_val_images"]) == (index, 8, TINY_SET["num_val"])
        assert split["val_sha256"] == hashlib.sha256(val_file.read_bytes()).hexdigest()
        assert split["repetition"] == {"seed": 7, "split": index} and split["iterations"] == 2
        assert split["duration_s"] >= split["training_seconds"] > 0
        for part in ("method", "setting", "protocol", "config_sha256", "classes"):
            assert split[part] == experiment[part]
    frame, _, warnings = read_rows([work_dir])
    assert not warnings and set(frame.metric) == {f"{task}_{name}" for task in ("bbox", "segm") for name in METRICS}
    whole = frame[(frame.metric == "bbox_AP") & frame.class_name.isna()].sort_values("split")
    assert whole.split.tolist() == [0, 1, 2, 3, 4] and whole.value.notna().tolist() == [False, True, False, True, False]
    assert set(frame.class_name.dropna()) == set(experiment["classes"]) and len(frame) == 2 * (3 + 2 * (6 + 4))


@pytest.mark.slow
def test_checkpoints_say_what_they_are_of(finished, backbone):
    """The record in a detector's file is the split's."""
    record = load_checkpoint(finished[0] / "split_1" / "epoch_1.pth")["detection"]
    split = read_record(finished[0] / "split_1" / "run.json").content
    for key in ("method", "setting", "repetition", "classes", "dataset", "config_sha256", "git_revision"):
        assert record[key] == split[key]
    assert (record["split"], record["iter"]) == (1, 2)


@pytest.mark.slow
def test_a_damaged_record_is_an_error(finished, synthetic_root, backbone, tmp_path, run_tool):
    """It is neither trusted nor replaced without a word."""
    work_dir = tmp_path / "w"
    shutil.copytree(finished[0], work_dir)
    file = work_dir / "split_3" / "run.json"
    file.write_text(file.read_text()[:100])
    again = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                     "--splits", 1, "--cfg-options", *SMALL)
    assert_one_line_error(again, file)


@pytest.mark.slow
def test_any_backbone_file(synthetic_root, tmp_path, run_tool):
    """The detector has the encoder that the file names, in training and when it is evaluated again."""
    file = write_backbone(tmp_path / "narrow.pth", dict(type="loco", window=3), dict(type="resnet18", width=16))
    finished = run_tool("train_det", ANY, "--data-root", synthetic_root, "--pretrained", file, "--splits", 0,
                        "--work-dir", tmp_path / "w", "--cfg-options", *SMALL)
    assert finished.returncode == 0, finished.stderr
    record = read_record(finished.stdout.strip())
    assert (record.method["label"], record.setting["encoder"]) == ("LoCo, window 3", dict(type="resnet18", width=16))
    tested = run_tool("test_det", ANY, tmp_path / "w/split_0/epoch_1.pth", "--data-root", synthetic_root, "--cfg-options",
                      SMALL[-1])
    assert tested.returncode == 0, tested.stderr
    rows = {row["metric"]: row["value"] for row in measured(tmp_path / "w")["split_0"] if "class_name" not in row}
    assert json.loads(tested.stdout)["bbox"]["AP"] == pytest.approx(rows["bbox_AP"], abs=1e-12)


def test_work_directories_are_named_after_the_file(tmp_path, monkeypatch):
    """Of configs that take any; of several, each below --work-dir."""
    monkeypatch.chdir(ROOT)
    write_backbone(tmp_path / "mine.pth")

    def work_dirs(*configs: str, **options: Any) -> list[str]:
        args = Namespace(configs=configs, splits=None, data_root=None, cfg_options=None,
                         pretrained=str(tmp_path / "mine.pth"), **dict(work_dir=None) | options)
        return [config.work_dir for config in detection_configs(args)]

    assert work_dirs(ANY) == ["work_dirs/mask_rcnn_demo_mine"]
    assert work_dirs(LOCO) == ["work_dirs/mask_rcnn_loco_demo"]
    assert work_dirs(ANY, work_dir="w") == ["w"]
    assert work_dirs(ANY, LOCO, work_dir="w") == ["w/mask_rcnn_demo_mine", "w/mask_rcnn_loco_demo"]


@pytest.mark.parametrize(("config", "rule", "label"), [
    (LOCO, dict(type="loco", window=3), "LoCo, window 3"), (LOCO, None, "b"),
    ("configs/mask_rcnn_supervised_demo.py", None, "supervised"), (ANY, dict(type="decoupled", k=4), "decoupled, K = 4"),
])
def test_the_record_names_the_method(config, rule, label, tmp_path, capsys):
    """A variant of the config's rule is filed under its own name, as is a file that does not say, with a note."""
    file = tmp_path / "b.pth"
    if rule is None:
        torch.save(build_encoder(DEMO_ENCODER).state_dict(), file)
    else:
        write_backbone(file, rule)
    resolved = Config.fromfile(str(ROOT / config), import_custom_modules=False)
    use_pretrained(resolved, str(file))
    identity, source = check_backbone(resolved)
    assert identity["method"]["label"] == label
    assert source["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (str(file) in capsys.readouterr().err) == (label == "b")


@pytest.mark.slow
def test_boxes_alone(synthetic_root, tmp_path, run_tool):
    """A detector without masks trains on boxes, is evaluated and drawn, and its records have AP of boxes and nothing of
    masks; Mask R-CNN is refused there."""
    root = shutil.copytree(synthetic_root, tmp_path / "set")
    for ann_file in root.glob("annotations/*.json"):
        content = json.loads(ann_file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        ann_file.write_text(json.dumps(content))
    refused = run_tool("train_det", RANDOM, "--data-root", root, "--work-dir", tmp_path / "w")
    assert_one_line_error(refused, "annotations without a segmentation")
    options = [*SMALL, "model.roi_head.mask_head=None", "model.roi_head.mask_roi_extractor=None"]
    finished = run_tool("train_det", RANDOM, "--data-root", root, "--work-dir", tmp_path / "w", "--splits", 0,
                        "--cfg-options", *options)
    assert finished.returncode == 0, finished.stderr
    assert read_record(tmp_path / "w" / "run.json").content["tasks"] == ["bbox"]
    assert {row["metric"] for row in measured(tmp_path / "w")["split_0"]} == {f"bbox_{name}" for name in METRICS}
    drawn = run_tool("visualize", "detections", tmp_path / "w", "--num", 1, "--score", 0, "--most", 2, "--out", tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "detections.png").is_file()
    tested = run_tool("test_det", RANDOM, tmp_path / "w/split_0/epoch_1.pth", "--data-root", root, "--cfg-options",
                      *options[2:])
    assert tested.returncode == 0, tested.stderr
    assert json.loads(tested.stdout).keys() == {"checkpoint", "sha256", "images", "bbox", "per_class"}


@pytest.mark.slow
def test_frozen_backbone_is_bit_identical_after_training(finished, backbone):
    """Parameters and buffers of the checkpoint's backbone equal the exported file's; the heads moved."""
    trained = load_checkpoint(finished[0] / "split_1" / "epoch_1.pth")["state_dict"]
    exported = torch.load(backbone, weights_only=True)["state_dict"]
    for key, value in exported.items():
        assert torch.equal(trained[f"backbone.encoder.{key}"], value), key
    other = load_checkpoint(finished[0] / "split_3" / "epoch_1.pth")["state_dict"]
    assert not torch.equal(trained["neck.lateral_convs.0.bn.running_mean"], other["neck.lateral_convs.0.bn.running_mean"])


@pytest.mark.slow
def test_finished_splits_are_not_run_again(finished, synthetic_root, backbone, run_tool):
    """A second call trains nothing, changes nothing and says where the record is."""
    work_dir, _ = finished
    before = {file: file.stat().st_mtime_ns for file in work_dir.glob("split_*/*.pth")}
    again = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                     "--splits", 1, 3, "--cfg-options", *SMALL)
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in work_dir.glob("split_*/*.pth")} == before
    assert "Iter(train)" not in again.stderr


@pytest.mark.slow
def test_a_killed_experiment_goes_on_where_it_was(synthetic_root, tmp_path, run_tool):
    """Two fine-tuned splits, killed -9 in the second between two checkpoints, end with the undisturbed run's numbers."""
    config = tmp_path / "config.py"
    config.write_text(FINE_TUNED)
    arguments = [config, "--data-root", synthetic_root, "--resume", "--splits"]
    whole = run_tool("train_det", *arguments, 0, 2, "--work-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    cut = ["--work-dir", tmp_path / "cut"]
    assert run_tool("train_det", *arguments, 0, *cut).returncode == 0
    killed = run_tool("train_det", *arguments, 0, 2, *cut, env=fault("after_train_iter", 5, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(measured(tmp_path / "cut")) == ["split_0"]
    resumed = run_tool("train_det", *arguments, 0, 2, *cut)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed epoch: 0, iter: 4" in resumed.stderr  # of 6, in split 2
    assert "Iter(train) [1/6]" not in resumed.stderr and "Iter(train) [5/6]" in resumed.stderr
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole") and len(measured(tmp_path / "cut")) == 2
    for split in (0, 2):
        expected, found = (load_checkpoint(tmp_path / run / f"split_{split}" / "epoch_1.pth") for run in ("whole", "cut"))
        for key, value in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][key], value), (split, key)


@pytest.mark.slow
def test_a_trained_split_without_record_is_only_evaluated(finished, synthetic_root, backbone, tmp_path, run_tool):
    """With --resume; without it, the split starts again, and its old checkpoint goes first."""
    work_dir = tmp_path / "w"
    shutil.copytree(finished[0], work_dir)
    record, expected = work_dir / "split_1" / "run.json", measured(work_dir)
    arguments = ["train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                 "--splits", 1]
    for options, trains in ((["--resume"], False), ([], True)):
        record.unlink()
        again = run_tool(*arguments, *options, "--cfg-options", *SMALL, "default_hooks.logger.interval=1")
        assert again.returncode == 0, again.stderr
        assert ("Iter(train)" in again.stderr) == trains
        assert measured(work_dir) == expected


@pytest.mark.slow
def test_a_failing_run_does_not_lose_the_others(synthetic_root, backbone, tmp_path, run_tool):
    """Two configs; in split 0 an image has another size than annotated. Splits 1 of both have records."""
    root = tmp_path / "set"
    shutil.copytree(synthetic_root, root)
    ann_file = root / "annotations" / "instances_train2017.json"
    content = json.loads(ann_file.read_text())
    ids = [image["id"] for image in content["images"]]
    only_in_0 = next(i for i in select_image_ids(ids, 8, seed=0) if i not in select_image_ids(ids, 8, seed=1))
    next(image for image in content["images"] if image["id"] == only_in_0)["width"] += 1
    ann_file.write_text(json.dumps(content))
    shutil.copy(backbone, tmp_path / "loco.pth")
    configs = [tmp_path / "random.py", tmp_path / "loco.py"]
    configs[0].write_text(f'_base_ = ["{ROOT}/{RANDOM}"]')
    configs[1].write_text(f'_base_ = ["{ROOT}/{LOCO}"]\npretrained = dict(checkpoint="{backbone}")')
    finished = run_tool("train_det", *configs, "--data-root", root, "--work-dir", tmp_path / "w", "--splits", 0, 1,
                        "--cfg-options", *SMALL)
    assert finished.returncode == 1
    assert finished.stdout == ""
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("error: 2 of 4 runs failed: random, split 0: ")
    assert "annotated as" in last and "; loco, split 0" in last
    for name in ("random", "loco"):
        assert list(measured(tmp_path / "w" / name)) == ["split_1"]
        assert "Traceback" in (tmp_path / "w" / name / "split_0" / "error.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "part"), [
    ("model.backbone.frozen_stages=7", "frozen_stages is 7"), ("optim_wrapper.optimizer.momentums=1", "optim_wrapper"),
    ("new_layer_norm=BN", "'BN'"),
])
def test_options_are_tried_before_anything_is_written(option, part, synthetic_root, tmp_path, run_tool):
    """The corrected command is then not a 'different config'."""
    finished = run_tool("train_det", RANDOM, "--data-root", synthetic_root, "--work-dir", tmp_path / "w", "--cfg-options",
                        *SMALL, option)
    assert_one_line_error(finished, part)
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_two_commands_do_not_train_one_split(finished, synthetic_root, backbone, tmp_path, run_tool):
    """While a process has claimed a split, another command says so and fails."""
    work_dir = tmp_path / "w"
    shutil.copytree(finished[0], work_dir)
    (work_dir / "split_1" / "run.json").unlink()
    arguments = ["train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                 "--resume", "--splits", 1]
    with claim_run(work_dir / "split_1"):
        refused = run_tool(*arguments, "--cfg-options", *SMALL)
    assert refused.returncode == 1
    assert f"process {os.getpid()} on" in refused.stderr and str(work_dir / "split_1") in refused.stderr
    assert run_tool(*arguments, "--cfg-options", *SMALL).returncode == 0


def test_other_annotations_and_another_backbone_are_another_run():
    """Their hashes count, not where they lie: results of two are never mixed."""
    config = Config.fromfile(str(ROOT / LOCO), import_custom_modules=False)
    data = DataDescription(("a",), 6, "train", "val")

    def fingerprint(root: str = "x/set", backbone: str = "b", **changes: str) -> str:
        config.data.root = root
        return config_fingerprint(_own_config(config, dict(path=root, sha256=backbone), replace(data, **changes)))[0]

    assert fingerprint("y/set") == fingerprint()
    assert fingerprint() not in (fingerprint(backbone="c"), fingerprint(val_sha256="w"), fingerprint(train_sha256="t"))


@pytest.mark.slow
def test_a_split_without_objects_is_refused(synthetic_root, tmp_path, run_tool):
    """Few labels of a set in which objects are rare; before anything trains."""
    root = shutil.copytree(synthetic_root, tmp_path / "set")
    ann_file = root / "annotations" / "instances_train2017.json"
    content = json.loads(ann_file.read_text())
    ids = [image["id"] for image in content["images"]]
    drawn = select_image_ids(ids, 4, seed=2)
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in drawn]
    ann_file.write_text(json.dumps(content))
    finished = run_tool("train_det", RANDOM, "--data-root", root, "--work-dir", tmp_path / "w", "--splits", 2,
                        "--cfg-options", "protocol.split_size=4")
    assert_one_line_error(finished, "split 2", "protocol.split_size")
    assert not (tmp_path / "w" / "run.json").exists()


@pytest.mark.slow
def test_divergence_is_no_result(synthetic_root, tmp_path, run_tool):
    """A learning rate without measure: the loss is named, nothing is saved or scored."""
    finished = run_tool("train_det", RANDOM, "--data-root", synthetic_root, "--work-dir", tmp_path / "w", "--splits", 0,
                        "--cfg-options", "protocol.split_size=8", "train_cfg.max_iters=9", "optim_wrapper.optimizer.lr=1e30",
                        "param_scheduler=[]")
    assert finished.returncode == 1, finished.stderr
    assert "the loss of " in finished.stderr.splitlines()[-1] and " nan " in finished.stderr.splitlines()[-1]
    assert not list((tmp_path / "w" / "split_0").glob("*.pth"))
    assert not measured(tmp_path / "w")


@pytest.mark.slow
def test_a_signal_stops_and_saves(synthetic_root, tmp_path, run_tool):
    """SIGTERM as SLURM sends it: a checkpoint after the current iteration, exit code 143, no further split is begun."""
    config = tmp_path / "config.py"
    config.write_text(FINE_TUNED)
    stopped = run_tool("train_det", config, "--data-root", synthetic_root, "--work-dir", tmp_path / "w",
                       env=fault("before_train_iter", 3, signal.SIGTERM))
    assert stopped.returncode == 143, stopped.stderr
    assert "stopped by SIGTERM after iteration 3 of 6" in stopped.stderr
    assert (tmp_path / "w" / "split_0" / "epoch_0_iter_3.pth").exists()
    assert not list((tmp_path / "w").glob("split_1/*.pth"))


@pytest.mark.slow
def test_corrupt_training_image_is_reported_and_skipped(synthetic_root, tmp_path, run_tool):
    """Named, counted, and fatal past the configured share."""
    root = tmp_path / "set"
    shutil.copytree(synthetic_root, root)
    ids = json.loads((root / "annotations" / "instances_train2017.json").read_text())["images"]
    chosen = select_image_ids([image["id"] for image in ids], 8, seed=0)
    broken = [root / "train2017" / image["file_name"] for image in ids if image["id"] in chosen[:2]]
    for file in broken:
        file.write_bytes(b"\x89PNG broken")
    arguments = [RANDOM, "--data-root", root, "--splits", 0, "--cfg-options", *SMALL, "train_cfg.max_iters=4"]
    tolerant = run_tool("train_det", *arguments, "custom_hooks.0.max_share=0.3", "--work-dir", tmp_path / "a")
    assert tolerant.returncode == 0, tolerant.stderr
    assert all(f"skipped a corrupt image: {file} cannot be decoded" in tolerant.stderr for file in broken)
    strict = run_tool("train_det", *arguments, "--work-dir", tmp_path / "b")
    assert strict.returncode not in (0, 2)
    assert "more than the tolerated share of 0.01" in strict.stderr


def test_missing_coco_says_what_to_put_where(run_tool):
    """The owner's command on a machine without COCO."""
    finished = run_tool("train_det", "configs/mask_rcnn_loco_coco10k.py")
    assert_one_line_error(finished, "data/coco/annotations/instances_train2017.json", "data/coco/val2017",
                          "cocodataset.org", "--data-root", "backbones/loco_resnet50_imagenet.pth", "--pretrained")


def test_missing_files_are_found_before_libraries_are_imported():
    """Torch and mmdet take seconds."""
    code = ("import sys, loco_det.experiment.inputs; "
            "assert not {'torch', 'mmdet', 'mmcv'} & set(sys.modules), 'imported'")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_backbone_of_another_rule_is_refused(synthetic_root, tmp_path, run_tool):
    """By configs that name one."""
    file = write_backbone(tmp_path / "gim.pth", "gim")
    finished = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", file, "--work-dir", tmp_path / "w")
    assert_one_line_error(finished, file, "gim,", "loco;")
    assert not (tmp_path / "w").exists()


def spoil_json(root):
    (root / "annotations" / "instances_val2017.json").write_text("{")


def spoil_image(root):
    next((root / "val2017").iterdir()).unlink()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoil_json, ["instances_val2017.json is not JSON"]),
        (spoil_image, ["1 of 6 images of", "instances_val2017.json", "are not in"]),
    ],
)
def test_broken_data_is_one_line(spoil, parts, synthetic_root, tmp_path, run_tool):
    """The file and what is wrong with it, before any training."""
    root = tmp_path / "set"
    shutil.copytree(synthetic_root, root)
    spoil(root)
    finished = run_tool("train_det", RANDOM, "--data-root", root, "--work-dir", tmp_path / "w", "--cfg-options", *SMALL)
    assert_one_line_error(finished, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([RANDOM, "--splits", 5], ["split 5 does not exist", "0 to 4"]),
        ([RANDOM, "--data-root", "no/data"], ["no/data/train2017", "--data-root"]),
        ([LOCO, "--pretrained", "no/backbone.pth"], ["backbone not found: no/backbone.pth"]),
        ([RANDOM, "--pretrained", "x.pth"], ["x.pth", "random weights"]),
        ([ANY], ["--pretrained FILE"]),
        (["configs/no.py"], ["configs/no.py does not exist"]),
        ([RANDOM, "--cfg-options", "protocol.split_size=25"], ["splits of 25 images", "24"]),
        ([RANDOM, "--cfg-options", "data.train_ann=a, b.json"], ["data.train_ann", "b.json"]),
    ],
)
def test_bad_arguments_are_one_line(arguments, parts, synthetic_root, tmp_path, run_tool):
    """The value and the fix."""
    if "--data-root" not in arguments:
        arguments = [arguments[0], "--data-root", synthetic_root, *arguments[1:]]
    assert_one_line_error(run_tool("train_det", *arguments, "--work-dir", tmp_path / "w"), *parts)


@pytest.mark.parametrize("spoil", ["truncated", "encoder", "keys"])
def test_wrong_checkpoints_are_one_line(spoil, backbone, synthetic_root, tmp_path, run_tool):
    """Truncated, another encoder, missing and unexpected keys."""
    file = tmp_path / "b.pth"
    content = torch.load(backbone, weights_only=True)
    if spoil == "truncated":
        file.write_bytes(backbone.read_bytes()[:100_000])
        parts = [file, "truncated"]
    elif spoil == "encoder":
        torch.save({"state_dict": build_encoder("resnet50").state_dict(),
                    "meta": dict(format=FORMAT, version=2, method=standard_method("loco"),
                                 setting=dict(encoder=dict(type="resnet50")))}, file)
        parts = [file, "holds the encoder resnet50, but resnet18(stem='stl', width=16) is needed"]
    else:
        weights = content["state_dict"]
        weights["extra.weight"] = weights.pop("bn1.weight")
        torch.save(content, file)
        parts = [file, "1 missing (bn1.weight)", "1 unexpected (extra.weight)"]
    finished = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", file, "--work-dir", tmp_path / "w",
                        "--cfg-options", *SMALL)
    assert_one_line_error(finished, *parts)
