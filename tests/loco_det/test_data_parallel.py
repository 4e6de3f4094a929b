"""The detector in two gloo processes: the same weights everywhere, statistics over the global batch; through torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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

from loco_det.data_parallel import DataParallelDetector
from loco_det.detection_config import detector_config
from loco_det.evaluation.results import RunResults
from pretrain import distributed
from pretrain.sync_batchnorm import CrossProcessBatchNorm
from tests.conftest import ROOT
from tests.pretrain.processes import run_in_processes

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
    detector.train_step(make_batch(shares[distributed.rank()]), optimizer)
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


@pytest.mark.slow
def test_torchrun_trains_on_the_batches_of_one_process(synthetic_root, tmp_path):
    """Two processes by the tool: one work directory, one result; --gpus-per-run and --launcher exclude each other."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "tools/train_det.py", "configs/mask_rcnn_random_demo.py", "--data-root", synthetic_root,
               "--work-dir", tmp_path / "w", "--splits", 0, "--cfg-options",
               "protocol.split_size=8", "train_cfg.max_iters=3", "default_hooks.logger.interval=1"]
    finished = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == str(tmp_path / "w" / "results.json")
    assert finished.stderr.count("Iter(train) [3/3]") == 1  # the first process logs
    results = RunResults.read(Path(finished.stdout.strip()))
    assert list(results.splits) == [0]
    assert json.loads((tmp_path / "w" / "split_0" / "timing.json").read_text())["iterations_per_second"] > 0
    refused = subprocess.run([*map(str, command), "--gpus-per-run", "1"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "--gpus-per-run starts processes itself" in refused.stderr
