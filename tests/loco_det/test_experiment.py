"""Detection experiments through the tool: splits, results, frozen backbones, bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import time

import pytest
import torch

from loco_det.datasets.splits import image_ids_sha256, select_image_ids
from loco_det.evaluation.results import RunResults
from loco_det.locks import only_one_process
from pretrain.checkpoints import FORMAT, load_checkpoint
from pretrain.encoders import build_encoder
from tests.conftest import ROOT, TINY_SET, assert_one_line_error
from tests.pretrain.fault_hook import fault

RANDOM, LOCO = "configs/mask_rcnn_random_demo.py", "configs/mask_rcnn_loco_demo.py"
SMALL = ["protocol.split_size=8", "train_cfg.max_iters=2"]

FINE_TUNED = f"""
_base_ = ["{ROOT}/{RANDOM}"]
custom_imports = dict(imports=["loco_det.register", "tests.pretrain.fault_hook"])
custom_hooks = [dict(type="FaultHook")]
protocol = dict(split_size=8)
train_cfg = dict(max_iters=6)
default_hooks = dict(checkpoint=dict(interval_iters=2), logger=dict(interval=1))
model = dict(backbone=dict(frozen_stages=1, norm_eval=False, sync_bn=True, cache_mib=0))
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """An exported ResNet-18."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbones") / "loco.pth"
    meta = dict(format=FORMAT, encoder=dict(type="resnet18"), rule=dict(type="loco"))
    torch.save({"state_dict": build_encoder("resnet18").state_dict(), "meta": meta}, path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, synthetic_root, backbone):
    """Splits 1 and 3 of a pretrained run, in a work directory of their own; returns (work_dir, process)."""
    import subprocess
    import sys

    work_dir = tmp_path_factory.mktemp("det") / "loco"
    command = [sys.executable, "tools/train_det.py", LOCO, "--data-root", synthetic_root, "--pretrained", backbone,
               "--work-dir", work_dir, "--splits", "3", "1", "--cfg-options", *SMALL]
    process = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert process.returncode == 0, process.stderr
    return work_dir, process


@pytest.mark.slow
def test_results_hold_the_splits_that_ran(finished, synthetic_root, backbone):
    """Ids are the pure function of ids and seed; the file names backbone, config and what is missing."""
    work_dir, process = finished
    assert process.stdout.strip() == str(work_dir / "results.json")
    results = RunResults.read(work_dir / "results.json")
    assert (results.method, results.dataset, results.config) == ("loco", "demo", LOCO)
    assert results.requested_splits == [0, 1, 2, 3, 4]
    assert list(results.splits) == [1, 3]
    pretrained = results.pretrained
    assert (pretrained.rule, pretrained.path, results.encoder) == ("loco", str(backbone), "resnet18")
    content = json.loads((synthetic_root / "annotations" / "instances_train2017.json").read_text())
    val_file = synthetic_root / "annotations" / "instances_val2017.json"
    for index, split in results.splits.items():
        ids = select_image_ids([image["id"] for image in content["images"]], 8, seed=index)
        assert split.image_ids_sha256 == image_ids_sha256(ids)
        assert json.loads((work_dir / f"split_{index}" / "image_ids.json").read_text())["image_ids"] == ids
        assert (split.seed, split.num_train_images, split.num_val_images) == (index, 8, TINY_SET["num_val"])
        assert split.val_sha256 == hashlib.sha256(val_file.read_bytes()).hexdigest()


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
    """A second call trains nothing, changes nothing and says where the results are."""
    work_dir, _ = finished
    before = {file: file.stat().st_mtime_ns for file in work_dir.glob("split_*/*.pth")}
    began = time.monotonic()
    again = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                     "--splits", 1, 3, "--cfg-options", *SMALL)
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in work_dir.glob("split_*/*.pth")} == before
    assert time.monotonic() - began < 30
    assert "Iter(train)" not in again.stderr


@pytest.mark.slow
def test_a_killed_experiment_goes_on_where_it_was(synthetic_root, tmp_path, run_tool):
    """Three fine-tuned splits, killed -9 in the second between two checkpoints, end with the undisturbed run's results."""
    config = tmp_path / "config.py"
    config.write_text(FINE_TUNED)
    arguments = [config, "--data-root", synthetic_root, "--resume", "--splits"]
    whole = run_tool("train_det", *arguments, 0, 2, 4, "--work-dir", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    cut = ["--work-dir", tmp_path / "cut"]
    assert run_tool("train_det", *arguments, 0, *cut).returncode == 0
    killed = run_tool("train_det", *arguments, 0, 2, 4, *cut, env=fault("after_train_iter", 5, signal.SIGKILL))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(RunResults.read(tmp_path / "cut" / "results.json").splits) == [0]
    resumed = run_tool("train_det", *arguments, 0, 2, 4, *cut)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed epoch: 0, iter: 4" in resumed.stderr  # of 6, in split 2
    assert "Iter(train) [1/6]" in resumed.stderr and "Iter(train) [5/6]" in resumed.stderr  # split 4, split 2
    assert (tmp_path / "cut" / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()
    for split in (0, 2, 4):
        expected, found = (load_checkpoint(tmp_path / run / f"split_{split}" / "epoch_1.pth") for run in ("whole", "cut"))
        for key, value in expected["state_dict"].items():
            assert torch.equal(found["state_dict"][key], value), (split, key)


@pytest.mark.slow
def test_a_trained_split_without_result_is_only_evaluated(finished, synthetic_root, backbone, tmp_path, run_tool):
    """With --resume; without it, the split begins anew, and its old checkpoint goes first."""
    work_dir = tmp_path / "w"
    shutil.copytree(finished[0], work_dir)
    result = work_dir / "split_1" / "result.json"
    expected = result.read_text()
    arguments = ["train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                 "--splits", 1]
    for options, trains in ((["--resume"], False), ([], True)):
        result.unlink()
        again = run_tool(*arguments, *options, "--cfg-options", *SMALL, "default_hooks.logger.interval=1")
        assert again.returncode == 0, again.stderr
        assert ("Iter(train)" in again.stderr) == trains
        assert result.read_text() == expected


@pytest.mark.slow
def test_a_failing_run_does_not_lose_the_others(synthetic_root, backbone, tmp_path, run_tool):
    """Two configs; in split 0 an image has another size than annotated. Splits 1 of both have results, the error is told."""
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
        assert list(RunResults.read(tmp_path / "w" / name / "results.json").splits) == [1]
        assert "Traceback" in (tmp_path / "w" / name / "split_0" / "error.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "part"), [
    ("train_dataloader.batch_size=0", "batch_size is 0"),
    ("train_cfg.type=NoSuchLoop", "train_cfg.type is 'NoSuchLoop', which is not known"),
    ("param_scheduler.0.type=NoSuchLR", "param_scheduler.0.type is 'NoSuchLR'"),
    ("optim_wrapper.optimizer.momentums=1", "options of optim_wrapper do not fit"),
    ("new_layer_norm=BN", "new_layer_norm is 'BN'"),
])
def test_options_are_tried_before_anything_is_claimed(option, part, synthetic_root, tmp_path, run_tool):
    """The mended command is then no 'different config'."""
    finished = run_tool("train_det", RANDOM, "--data-root", synthetic_root, "--work-dir", tmp_path / "w", "--cfg-options",
                        *SMALL, option)
    assert_one_line_error(finished, part)
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_two_commands_do_not_train_one_split(finished, synthetic_root, backbone, tmp_path, run_tool):
    """While a process holds a split's lock, another command says so and fails; other splits are not in its way."""
    work_dir = tmp_path / "w"
    shutil.copytree(finished[0], work_dir)
    (work_dir / "split_1" / "result.json").unlink()
    arguments = ["train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", work_dir,
                 "--resume", "--splits", 1]
    with only_one_process(work_dir / "split_1"):
        refused = run_tool(*arguments, "--cfg-options", *SMALL)
    assert refused.returncode == 1
    assert f"another command is at work in {work_dir / 'split_1'}" in refused.stderr
    assert run_tool(*arguments, "--cfg-options", *SMALL).returncode == 0


@pytest.mark.slow
def test_other_annotations_are_another_run(finished, synthetic_root, backbone, tmp_path, run_tool):
    """Splits evaluated on two versions of the validation file are never averaged."""
    root = tmp_path / synthetic_root.name
    shutil.copytree(synthetic_root, root)
    ann_file = root / "annotations" / "instances_val2017.json"
    content = json.loads(ann_file.read_text())
    content["images"].pop()
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    ann_file.write_text(json.dumps(content))
    assert_one_line_error(
        run_tool("train_det", LOCO, "--data-root", root, "--pretrained", backbone, "--work-dir", finished[0],
                 "--cfg-options", *SMALL),
        "different config", "data.val_sha256",
    )


@pytest.mark.slow
def test_divergence_is_no_result(synthetic_root, tmp_path, run_tool):
    """A learning rate without measure: the loss is named, nothing is saved or scored."""
    finished = run_tool("train_det", RANDOM, "--data-root", synthetic_root, "--work-dir", tmp_path / "w", "--splits", 0,
                        "--cfg-options", "protocol.split_size=8", "train_cfg.max_iters=9", "optim_wrapper.optimizer.lr=1e30",
                        "param_scheduler=[]")
    assert finished.returncode == 1, finished.stderr
    assert "the loss of " in finished.stderr.splitlines()[-1] and " nan " in finished.stderr.splitlines()[-1]
    assert not list((tmp_path / "w" / "split_0").glob("*.pth"))
    assert not RunResults.read(tmp_path / "w" / "results.json").splits


@pytest.mark.slow
def test_many_runs_at_a_time(synthetic_root, backbone, tmp_path, run_tool):
    """Two configs' splits packed onto two GPUs, which are mere names here: all results, those of one run after the other."""
    configs = [tmp_path / "random.py", tmp_path / "loco.py"]
    configs[0].write_text(f'_base_ = ["{ROOT}/{RANDOM}"]')
    configs[1].write_text(f'_base_ = ["{ROOT}/{LOCO}"]\npretrained = dict(checkpoint="{backbone}")')
    arguments = [*configs, "--data-root", synthetic_root, "--splits", 0, 1]
    packed = run_tool("train_det", *arguments, "--work-dir", tmp_path / "packed", "--gpus-per-run", 1,
                      "--cfg-options", *SMALL, env={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert packed.returncode == 0, packed.stderr
    assert packed.stdout.split() == [str(tmp_path / "packed" / name / "results.json") for name in ("random", "loco")]
    assert packed.stderr.count(": finished") == 4
    assert run_tool("train_det", *arguments, "--work-dir", tmp_path / "one", "--cfg-options", *SMALL).returncode == 0
    for name in ("random", "loco"):
        found, expected = ((tmp_path / way / name / "results.json").read_bytes() for way in ("packed", "one"))
        assert found == expected
        assert "Iter(train)" in (tmp_path / "packed" / name / "split_1" / "console.log").read_text()


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
def test_another_backbone_is_another_run(finished, synthetic_root, backbone, tmp_path, run_tool):
    """The hash of the file counts, not its name: results of two backbones are never mixed."""
    content = torch.load(backbone, weights_only=True)
    content["state_dict"]["conv1.weight"] += 1
    changed = tmp_path / "changed.pth"
    torch.save(content, changed)
    kept = backbone.with_name("kept.pth")
    shutil.copy(backbone, kept)
    shutil.copy(changed, backbone)
    try:
        assert_one_line_error(
            run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", backbone, "--work-dir", finished[0],
                     "--cfg-options", *SMALL),
            "different config", "pretrained.sha256",
        )
    finally:
        shutil.copy(kept, backbone)


@pytest.mark.slow
def test_undecodable_training_image_is_reported_and_skipped(synthetic_root, tmp_path, run_tool):
    """Named, counted, and fatal past the configured share."""
    root = tmp_path / "set"
    shutil.copytree(synthetic_root, root)
    ids = json.loads((root / "annotations" / "instances_train2017.json").read_text())["images"]
    chosen = select_image_ids([image["id"] for image in ids], 8, seed=0)
    broken = root / "train2017" / next(image["file_name"] for image in ids if image["id"] == chosen[0])
    broken.write_bytes(b"\x89PNG broken")
    arguments = [RANDOM, "--data-root", root, "--splits", 0, "--cfg-options", *SMALL, "train_cfg.max_iters=4"]
    tolerant = run_tool("train_det", *arguments, "custom_hooks.0.max_share=0.2", "--work-dir", tmp_path / "a")
    assert tolerant.returncode == 0, tolerant.stderr
    assert f"cannot be decoded: {broken} (1 of 8 so far)" in tolerant.stderr
    strict = run_tool("train_det", *arguments, "--work-dir", tmp_path / "b")
    assert strict.returncode not in (0, 2)
    assert "more than the tolerated share of 0.01" in strict.stderr


def test_missing_coco_says_what_to_put_where_within_seconds(run_tool):
    """The owner's command on a machine without COCO: within 5 seconds (the better of three, for busy machines)."""
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        finished = run_tool("train_det", "configs/mask_rcnn_loco_coco10k.py")
        seconds.append(time.monotonic() - began)
        assert_one_line_error(finished, "data/coco/annotations/instances_train2017.json", "data/coco/val2017",
                              "cocodataset.org", "--data-root", "backbones/loco_resnet50_imagenet_100e.pth", "--pretrained")
        if seconds[-1] < 5:
            break
    assert min(seconds) < 5


def test_a_backbone_of_another_rule_is_refused(synthetic_root, backbone, tmp_path, run_tool):
    """Its results would be filed under the config's method."""
    content = torch.load(backbone, weights_only=True)
    content["meta"]["rule"] = dict(type="gim")
    torch.save(content, tmp_path / "gim.pth")
    finished = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", tmp_path / "gim.pth",
                        "--work-dir", tmp_path / "w")
    assert_one_line_error(finished, "was trained with gim", "method is loco")


@pytest.mark.slow
def test_bad_input_leaves_the_work_dir_free(synthetic_root, tmp_path, run_tool):
    """An option that only the detector's construction refuses; the mended command is no 'different config'."""
    arguments = ["train_det", RANDOM, "--data-root", synthetic_root, "--work-dir", tmp_path / "w", "--cfg-options", *SMALL]
    assert_one_line_error(run_tool(*arguments, "model.backbone.frozen_stages=7"), "frozen_stages is 7")
    assert not (tmp_path / "w" / "run.json").exists()


def spoil_json(root):
    (root / "annotations" / "instances_val2017.json").write_text("{")


def spoil_key(root):
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    del content["categories"]
    file.write_text(json.dumps(content))


def spoil_image(root):
    next((root / "val2017").iterdir()).unlink()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoil_json, ["instances_val2017.json is not JSON"]),
        (spoil_key, ["instances_train2017.json lacks the list 'categories'"]),
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
        ([RANDOM, "--pretrained", "x.pth"], ["starts from random weights"]),
        (["configs/no.py"], ["configs/no.py does not exist"]),
        ([RANDOM, "--cfg-options", "protocol.split_size=25"], ["splits of 25 images", "has only 24"]),
    ],
)
def test_bad_arguments_are_one_line(arguments, parts, synthetic_root, tmp_path, run_tool):
    """The value and the mend."""
    if "--data-root" not in arguments:
        arguments = [arguments[0], "--data-root", synthetic_root, *arguments[1:]]
    assert_one_line_error(run_tool("train_det", *arguments, "--work-dir", tmp_path / "w"), *parts)


@pytest.mark.parametrize("spoil", ["truncated", "text", "encoder", "keys"])
def test_wrong_checkpoints_are_one_line(spoil, backbone, synthetic_root, tmp_path, run_tool):
    """Truncated, no checkpoint, another encoder, missing and unexpected keys."""
    file = tmp_path / "b.pth"
    content = torch.load(backbone, weights_only=True)
    if spoil == "truncated":
        file.write_bytes(backbone.read_bytes()[:100_000])
        parts = [file, "truncated"]
    elif spoil == "text":
        file.write_text("hello")
        parts = [file, "not a checkpoint"]
    elif spoil == "encoder":
        torch.save({"state_dict": build_encoder("resnet50").state_dict(),
                    "meta": dict(format=FORMAT, encoder=dict(type="resnet50"))}, file)
        parts = [file, "holds the encoder resnet50, but resnet18 is needed"]
    else:
        weights = content["state_dict"]
        weights["extra.weight"] = weights.pop("bn1.weight")
        torch.save(content, file)
        parts = [file, "1 missing (bn1.weight)", "1 unexpected (extra.weight)"]
    finished = run_tool("train_det", LOCO, "--data-root", synthetic_root, "--pretrained", file, "--work-dir", tmp_path / "w",
                        "--cfg-options", *SMALL)
    assert_one_line_error(finished, *parts)
