"""The detector in two gloo processes: the same weights everywhere, statistics over the global batch; through the tool."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import loco_det.register  # noqa: F401  isort: skip
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks

from loco_det.experiment.config import detector_config
from loco_det.model.data_parallel import DataParallelDetector
from pretrain.distributed import comm
from pretrain.distributed.sync_batchnorm import CrossProcessBatchNorm
from pretrain.engine.checkpoints import load_checkpoint
from pretrain.results.store import read_record
from tests.conftest import ROOT
from tests.loco_det.experiment.test_experiment import FINE_TUNED, measured
from tests.pretrain.fault_hook import fault
from tests.pretrain.processes import run_in_processes, run_script

pytestmark = pytest.mark.repository

SIDE = 64


def demo_config() -> Config:
    """A small Mask R-CNN that is fine-tuned from random weights."""
    config = Config.fromfile(str(ROOT / "configs/mask_rcnn_random_demo.py"), import_custom_modules=False)
    config.model.backbone.update(frozen_stages=1, norm_eval=False, sync_bn=True, cache_mib=0)
    return config


def make_detector() -> torch.nn.Module:
    """It in training mode."""
    torch.manual_seed(0)
    init_default_scope("mmdet")
    return MODELS.build(ConfigDict(detector_config(demo_config(), ("a", "b")))).train()


def make_batch(images: list[int]) -> dict:
    """Images with noise of their own number, each with a square object, except image 3, which has none."""
    inputs, samples = [], []
    for number in images:
        rng = np.random.default_rng(number)
        inputs.append(torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)))
        count = 0 if number == 3 else 1
        sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0)))
        masks = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
        masks[:, 10:40, 10:40] = 1
        sample.gt_instances = InstanceData(bboxes=torch.tensor([[10.0, 10.0, 40.0, 40.0]] * count).reshape(-1, 4),
                                           labels=torch.zeros(count, dtype=torch.long),
                                           masks=BitmapMasks(masks, SIDE, SIDE))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long),
                                                masks=BitmapMasks(np.zeros((0, SIDE, SIDE), np.uint8), SIDE, SIDE))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def train_step_of_share(shares: list[list[int]]) -> dict[str, torch.Tensor]:
    """One step on this process's images, and the weights and buffers that it leaves."""
    detector = DataParallelDetector(make_detector())
    optimizer = OptimWrapper(torch.optim.SGD((p for p in detector.parameters() if p.requires_grad), lr=1e-3))
    detector.train_step(make_batch(shares[comm.rank()]), optimizer)
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in detector.modules())
    kept = {name: value.clone() for name, value in detector.module.state_dict().items()}
    kept["<kinds>"] = torch.tensor([sum(isinstance(m, CrossProcessBatchNorm) for m in detector.modules())])
    return kept


@pytest.fixture(scope="module")
def one_process() -> dict[str, torch.Tensor]:
    """The state after the step of one process with images 0, 1, 2 and 3."""
    detector = make_detector()
    synchronised = sum(isinstance(m, torch.nn.SyncBatchNorm) for m in detector.modules())
    detector = revert_sync_batchnorm(detector)
    optimizer = OptimWrapper(torch.optim.SGD((p for p in detector.parameters() if p.requires_grad), lr=1e-3))
    detector.train_step(make_batch([0, 1, 2, 3]), optimizer)
    return {**detector.state_dict(), "<kinds>": torch.tensor([synchronised])}


@pytest.mark.slow
@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 1, 2], [3]]], ids=["even", "one without objects"])
def test_two_processes_agree_and_normalise_over_the_global_batch(shares, one_process, tmp_path):
    """Every synchronised norm is ours; weights and buffers are equal in both; statistics of backbone and FPN are those of
    one process with all images (what follows depends on which proposals are drawn), also where one has no object."""
    first, second = run_in_processes(train_step_of_share, 2, tmp_path, shares)
    assert first.keys() == one_process.keys()
    assert first["<kinds>"] == one_process["<kinds>"] > 20
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert value.isfinite().all(), name
        if name.startswith(("backbone", "neck")) and "running" in name:
            torch.testing.assert_close(value, one_process[name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    """One split, fine-tuned for four iterations."""
    file = tmp_path_factory.mktemp("config") / "config.py"
    file.write_text(FINE_TUNED.replace("max_iters=6", "max_iters=4").replace("split_size=8", "split_size=8, num_splits=1"))
    return file


@pytest.fixture(scope="module")
def pair(config, synthetic_root, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The work directory of two processes, and how they ended."""
    work_dir = tmp_path_factory.mktemp("pair") / "w"
    arguments = [str(config), "--data-root", str(synthetic_root), "--work-dir", str(work_dir)]
    return work_dir, run_script("tools/train_det.py", arguments, work_dir.with_name("log"), {}, processes=2)


@pytest.mark.slow
def test_two_processes_train_one_detector_on_the_batches_of_one(config, synthetic_root, pair, tmp_path, run_tool):
    """One record and log. After an iteration the statistics of backbone and FPN are those of one process: the images are the
    same, and so was the normalisation over both processes' halves."""
    work_dir, finished = pair
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == str(work_dir / "run.json")
    assert finished.stderr.count("Iter(train) [4/4]") == 1  # the first process logs
    assert "Distributed training is not used" not in finished.stderr
    record = read_record(work_dir / "split_0" / "run.json").content
    assert (record["iterations"], record["processes"], record["repetition"]) == (4, 2, {"split": 0})
    one_iteration = ["--data-root", synthetic_root, "--cfg-options", "train_cfg.max_iters=1"]
    for processes, name in ((1, "one"), (2, "two")):
        finished = run_tool("train_det", config, "--work-dir", tmp_path / name, *one_iteration, processes=processes)
        assert finished.returncode == 0, finished.stderr
    one, two = (load_checkpoint(tmp_path / name / "split_0" / "epoch_1.pth")["state_dict"] for name in ("one", "two"))
    statistics = [name for name in one if name.startswith(("backbone", "neck")) and "running" in name]
    assert len(statistics) > 40
    for name in statistics:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_processes_go_on_where_they_were(config, synthetic_root, pair, tmp_path, run_tool):
    """The second one gets SIGTERM; resumed, both end with the undisturbed pair's result and weights."""
    arguments = [config, "--data-root", synthetic_root, "--work-dir", tmp_path / "w", "--resume"]
    stopped = run_tool("train_det", *arguments, env=fault("before_train_iter", 3, signal.SIGTERM, process=1), processes=2)
    assert stopped.returncode != 0
    assert "stopped by SIGTERM after iteration 3 of 4" in stopped.stderr
    resumed = run_tool("train_det", *arguments, processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed epoch: 0, iter: 3" in resumed.stderr
    assert measured(tmp_path / "w") == measured(pair[0])
    expected, found = (load_checkpoint(folder / "split_0" / "epoch_1.pth") for folder in (pair[0], tmp_path / "w"))
    for key, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][key], value), key


@pytest.mark.slow
def test_what_processes_cannot_do_is_told_before_anything_is_claimed(config, synthetic_root, tmp_path, run_tool):
    """A batch of 3 for two processes."""
    arguments = [config, "--data-root", synthetic_root, "--work-dir", tmp_path / "w"]
    odd = run_tool("train_det", *arguments, "--cfg-options", "train_dataloader.batch_size=3", processes=2)
    assert odd.returncode != 0
    assert "train_dataloader.batch_size is 3" in odd.stderr and "choose a multiple of 2" in odd.stderr
    assert not (tmp_path / "w").exists()
