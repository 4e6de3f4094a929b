"""Objectives with a target network, a queue or a predictor through the tools: resume, export, costs, overrides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pretrain.costs.complexity import stage_complexity
from pretrain.costs.memory import step_cost
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import load_checkpoint, load_into, read_backbone
from tests.conftest import ROOT, assert_one_line_error

pytestmark = pytest.mark.repository
CONFIG = ROOT / "configs/pretrain/loco_resnet18_demo.py"
OBJECTIVES = {"BYOL": ["model.objective.hidden_channels=8"], "MoCoV2": ["model.objective.queue_size=12"]}
SMALL = ["model.encoder.width=8", "model.head.hidden_channels=8", "model.head.out_channels=8", "train_cfg.max_epochs=2",
         "train_dataloader.batch_size=4", "train_dataloader.dataset.views.size=16", "train_dataloader.num_workers=0",
         "train_dataloader.persistent_workers=False"]


def run(run_tool, image_folder: Path, work_dir: Path, objective: str, *more: str, resume: bool = False):
    return run_tool("pretrain", CONFIG, "--data-root", image_folder, "--work-dir", work_dir, *["--resume"] * resume,
                    "--cfg-options", *SMALL, f"model.objective.type={objective}", "model.objective._delete_=True", *more)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resumed_to_the_last_bit_and_exported_without(objective, tmp_path, image_folder, run_tool):
    """Target network, its step and the queue are saved; the backbone has none of them."""
    finished = run(run_tool, image_folder, tmp_path / "whole", objective, *OBJECTIVES[objective])
    assert finished.returncode == 0, finished.stderr
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    for name in ("run.json", "epoch_1.pth"):
        shutil.copy(tmp_path / "whole" / name, resumed)
    finished = run(run_tool, image_folder, resumed, objective, *OBJECTIVES[objective], resume=True)
    assert finished.returncode == 0, finished.stderr
    assert "epoch_1.pth" in finished.stderr
    states = [load_checkpoint(folder / "epoch_2.pth")["state_dict"] for folder in (tmp_path / "whole", resumed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert states[0]["target.steps"] == 4
    assert not torch.equal(states[0]["target.encoder.conv1.weight"], states[0]["encoder.conv1.weight"])

    finished = run_tool("export_backbone", resumed / "epoch_2.pth", tmp_path / "backbone.pth")
    assert finished.returncode == 0, finished.stderr
    backbone = read_backbone(tmp_path / "backbone.pth")
    assert not any(key.startswith(("target", "objectives", "heads")) for key in backbone.state_dict)
    load_into(build_encoder(backbone.encoder), backbone)
    assert backbone.meta["method"]["label"].startswith({"BYOL": "LoCo, BYOL", "MoCoV2": "LoCo, MoCo v2"}[objective])


@pytest.mark.parametrize("objective", ["BarlowTwins", "VICReg", "SimSiam"])
def test_any_config_takes_another_objective_by_two_options(objective, tmp_path, image_folder, run_tool):
    finished = run(run_tool, image_folder, tmp_path / "w", objective)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "w/epoch_2.pth").is_file()


def test_an_option_of_another_objective_is_refused(tmp_path, image_folder, run_tool):
    """Without ``_delete_``, the demo's temperature stays."""
    finished = run_tool("pretrain", CONFIG, "--data-root", image_folder, "--work-dir", tmp_path / "w",
                        "--cfg-options", *SMALL, "model.objective.type=BarlowTwins")
    assert_one_line_error(finished, "BarlowTwins", "temperature", "redundancy")


@pytest.mark.parametrize("rule", ["simclr", "loco"])
def test_a_target_network_costs_one_more_forward_pass(rule):
    """Of encoder and heads, whatever the number of units: BYOL against SimSiam, which has all but the target."""
    head = dict(mlp_layers=2, hidden_channels=32, out_channels=16, norm="hidden")
    sizes = dict(batch_size=2, image_size=64)
    byol, simsiam = (step_cost("resnet18", dict(rule=rule, head=head, objective=dict(type=name, hidden_channels=8)), **sizes)
                     for name in ("BYOL", "SimSiam"))
    encoder = stage_complexity(build_encoder("resnet18"), 64).total("flops")
    heads = sum(width * 32 + 32 * 16 for width in {"simclr": (512,), "loco": (64, 128, 256, 512)}[rule])
    assert byol.flops - simsiam.flops == 2 * 2 * (encoder + heads)
    assert byol.optimizer_bytes == simsiam.optimizer_bytes
