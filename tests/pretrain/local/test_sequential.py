"""Units trained one after the other: what is frozen stays as it is to the bit, and a run resumes."""

from __future__ import annotations

import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from pretrain.engine.checkpoints import load_checkpoint
from pretrain.learner import LocalContrastiveLearner
from pretrain.local.sequential import SequentialUnitsHook, check_separable
from pretrain.local.units import LocalUnit
from tests.conftest import ROOT, assert_one_line_error

SEQUENTIAL = ROOT / "configs/pretrain/ablations/review_sequential_gim.py"
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
}


def batch() -> dict:
    return {"views": torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))}


def changed(before: dict, after: dict) -> set[str]:
    """``layer<i>`` and ``heads.<i>`` in which any parameter or buffer differs; the stem belongs to layer1."""
    keys = {key.removeprefix("encoder.") for key, value in after.items() if not torch.equal(value, before[key])}
    keys = {key if key.startswith(("layer", "heads")) else "layer1" for key in keys}
    return {".".join(key.split(".")[:2]) if key.startswith("heads") else key.split(".")[0] for key in keys}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_the_active_unit_changes(optimizer):
    """Momentum and weight decay leave finished units, and those to come, bit-identical, batch norm statistics included."""
    torch.manual_seed(0)
    learner = LocalContrastiveLearner(dict(type="resnet18", width=16), "gim")
    wrapper = OptimWrapper(OPTIMIZERS[optimizer](learner.parameters()))
    for index, name in enumerate(learner.unit_names):
        learner.train_only(index)
        learner.train()  # as mmengine does at the beginning of an epoch
        before = {key: value.clone() for key, value in learner.state_dict().items()}
        for _ in range(2):
            logs = learner.train_step(batch(), wrapper)
        assert logs.keys() == {"loss", f"loss_{name}", f"accuracy_{name}"}
        assert changed(before, learner.state_dict()) == {f"layer{index + 1}", f"heads.{index}"}
        with_gradient = [p for p in learner.parameters() if p.grad is not None]
        assert len(with_gradient) == len([*getattr(learner.encoder, f"layer{index + 1}").parameters(),
                                          *learner.heads[index].parameters()]) + (3 if index == 0 else 0)


def test_frozen_blocks_run_with_their_running_statistics():
    """The active unit sees the lower ones as they will be exported; blocks above do not run."""
    torch.manual_seed(0)
    learner = LocalContrastiveLearner(dict(type="resnet18", width=16), "gim")
    learner.train_only(1)
    norms = (learner.encoder.bn1, learner.encoder.layer1[1].bn2, learner.encoder.layer2[0].bn1)
    assert [norm.training for norm in norms] == [False, False, True]
    inputs, top = [], []
    learner.encoder.layer2[0].register_forward_hook(lambda m, args, out: inputs.append(args[0]))
    learner.encoder.layer3[0].register_forward_hook(lambda m, args, out: top.append(out))
    learner.train_step(batch(), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
    images = learner.normalise(batch()["views"].transpose(0, 1).flatten(0, 1))
    assert torch.equal(inputs[0], learner.eval().encoder.run(images, 0, 2))
    assert not top


def test_all_units_can_be_trained_again():
    """``train_only(None)`` takes everything back."""
    learner = LocalContrastiveLearner(dict(type="resnet18", width=16), "gim")
    learner.train_only(3)
    learner.train_only(None)
    assert all(module.training for module in learner.modules())
    logs = learner.train_step(batch(), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
    assert "loss_res2" in logs and "loss_res5" in logs


@pytest.mark.parametrize(("units", "fits"), [
    ([(0, 2), (2, 8)], True),
    ([(0, 2), (0, 4)], False),
    ([LocalUnit(0, 2), LocalUnit(0, 4, updates=(2, 4))], True),  # reaches the lower blocks, but leaves them alone
    ([LocalUnit(0, 4, updates=(0, 2)), LocalUnit(2, 8)], False),  # the lower loss looks through blocks that change later
])
def test_a_unit_is_finished_only_if_no_later_one_updates_its_blocks(units, fits):
    """It matters what the lower unit reaches and what the upper one updates."""
    units = [unit if isinstance(unit, LocalUnit) else LocalUnit(*unit) for unit in units]
    if fits:
        check_separable(units)
    else:
        with pytest.raises(ValueError, match="cannot be finished before .*must not overlap"):
            check_separable(units)


def test_bad_use_is_refused():
    """Overlapping rules, units that do not exist, and epochs below 1."""
    with pytest.raises(ValueError, match=r"\[0,2\) cannot be finished before \[0,4\) begins.* block\(s\) 0, 1"):
        LocalContrastiveLearner("resnet18", "loco").train_only(0)
    with pytest.raises(ValueError, match="no unit 4; the 4 units are counted from 0"):
        LocalContrastiveLearner("resnet18", "gim").train_only(4)
    with pytest.raises(ValueError, match="epochs_per_unit of SequentialUnitsHook is 0"):
        SequentialUnitsHook(0)


@pytest.mark.repository
def test_every_unit_has_the_same_schedule():
    """Ten epochs of warm-up times a cosine, from the full rate down to zero, four times."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    config = Config.fromfile(str(SEQUENTIAL), import_custom_modules=False)
    schedulers = []
    for spec in map(dict, config.param_scheduler):
        spec.pop("convert_to_iter_based")
        scheduler_type = PARAM_SCHEDULERS.get(spec.pop("type"))
        schedulers.append(scheduler_type.build_iter_from_epoch(optimizer, **spec, epoch_length=2))
    rates = []
    for _ in range(2 * config.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    units = torch.tensor(rates, dtype=torch.float64).view(4, 200)
    assert torch.allclose(units, units[:1].expand(4, -1), rtol=1e-6)
    assert rates[0] == pytest.approx(3e-4) and 17 <= int(units[0].argmax()) <= 20 and 0.28 < max(rates) <= 0.3
    assert rates[199] < 1e-4


OPTIONS = ["model.encoder.type=resnet18", "model.encoder.width=16", "train_cfg.max_epochs=4",
           "custom_hooks.2.epochs_per_unit=1", "train_dataloader.dataset.source=folder",
           "train_dataloader.dataset.split=None", "train_dataloader.batch_size=4", "train_dataloader.num_workers=1",
           "train_dataloader.dataset.views.size=32",
           "default_hooks.checkpoint.interval=1", "default_hooks.checkpoint.max_keep_ckpts=-1"]


@pytest.mark.slow
def test_run_trains_unit_after_unit_and_resumes_bit_for_bit(tmp_path, synthetic_root, run_tool):
    """One epoch a unit: each epoch changes its own unit alone, and a run resumed between two units ends the same."""
    def run(work_dir, *more):
        finished = run_tool("pretrain", SEQUENTIAL, "--data-root", synthetic_root / "unlabeled2017", "--work-dir", work_dir,
                            *more, "--cfg-options", *OPTIONS)
        assert finished.returncode == 0, finished.stderr
        return finished.stderr

    run(tmp_path / "whole")
    states = [load_checkpoint(tmp_path / f"whole/epoch_{epoch}.pth")["state_dict"] for epoch in (1, 2, 3, 4)]
    for index in (1, 2, 3):
        assert changed(states[index - 1], states[index]) == {f"layer{index + 1}", f"heads.{index}"}

    resumed = tmp_path / "resumed"
    resumed.mkdir()
    for name in ("run.json", "epoch_2.pth"):
        shutil.copy(tmp_path / "whole" / name, resumed)
    (resumed / "last_checkpoint").write_text(str(resumed / "epoch_2.pth"))
    run(resumed, "--resume")
    found = load_checkpoint(resumed / "epoch_4.pth")["state_dict"]
    assert found.keys() == states[3].keys() and not changed(states[3], found)


@pytest.mark.parametrize(("overrides", "parts"), [
    (["train_cfg.max_epochs=5"], ["max_epochs is 5", "4 units of 1 epochs each take 4", "set train_cfg.max_epochs=4"]),
    (["model.rule.type=loco"], ["[0,2) cannot be finished before [0,4) begins", "dict(type='gim')"]),
])
def test_bad_run_is_refused_before_it_claims_its_directory(overrides, parts, tmp_path, image_folder, run_tool):
    """One line, and the mended command may use the same directory."""
    finished = run_tool("pretrain", SEQUENTIAL, "--data-root", image_folder, "--work-dir", tmp_path / "w",
                        "--cfg-options", *OPTIONS, *overrides)
    assert_one_line_error(finished, *parts)
    assert not (tmp_path / "w" / "run.json").exists()
