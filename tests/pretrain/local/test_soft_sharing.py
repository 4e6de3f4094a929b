"""Soft sharing against a naive transcription in float64, and what the learner does with it."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import RECORD_KEY, export_backbone
from pretrain.heads import ProjectionHead
from pretrain.learner import LocalContrastiveLearner
from pretrain.local.segments import RECOMPUTE
from pretrain.local.soft_sharing import SoftSharing, SoftSharingBackprop
from pretrain.local.units import build_units, loco_units
from pretrain.objectives import NTXent

COEFFICIENT = 0.03
SMALL = dict(type="resnet18", width=16)
STAGES = [(0, 2), (2, 4), (4, 6), (6, 8)]  # of ResNet-18


@pytest.fixture(scope="module")
def parts():
    """Encoder, heads and copies of LoCo with the res2 loss, the copies a little apart, and images; all in float64."""
    torch.manual_seed(0)
    encoder = build_encoder(SMALL).double()
    units = loco_units(encoder.stages)
    sharing = SoftSharing(encoder, units, COEFFICIENT)
    heads = nn.ModuleList(sharing.extend([ProjectionHead(encoder, unit.end - 1, conv_blocks=1) for unit in units])).double()
    with torch.no_grad():
        for parameter in (p for stage in sharing.copies for p in stage.parameters()):
            parameter += 0.01 * torch.randn_like(parameter)
    return sharing, heads, torch.randn(4, 3, 32, 32, dtype=torch.float64)


def naive_gradients(encoder, heads, images, first):
    """Every loss by itself, every pair of layers by its name, as section 5.5 describes them; one ``backward()``."""
    stages = [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]
    stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.relu, encoder.maxpool)
    copies = [[block[-1] for block in head.copy] for head in heads[:-1]]
    with torch.no_grad():
        below = [images, *(encoder.run(images, 0, end) for _, end in STAGES)]  # inputs of the stages
    outputs = [
        heads[0](images),
        heads[1](stages[0](stem(images))),
        heads[2](stages[1](below[1])),
        heads[3](stages[3](stages[2](below[2]))),
    ]
    losses = [NTXent(0.5)(output)[0] for output in outputs[first:]]
    penalty = 0
    for stage, copied in list(zip(stages, copies, strict=False))[first:]:
        for own_block, copied_block in zip(stage, copied, strict=True):
            copied_parameters = dict(copied_block.named_parameters())
            for name, parameter in own_block.named_parameters():
                penalty += COEFFICIENT / 2 * (parameter - copied_parameters[name]).pow(2).sum()
    if first == 0:
        for name in ("conv1", "bn1"):
            own, copied = getattr(encoder, name), heads[0].copy[0][["conv1", "bn1"].index(name)]
            for p, q in zip(own.parameters(), copied.parameters(), strict=True):
                penalty += COEFFICIENT / 2 * (p - q).pow(2).sum()
    (sum(losses) + penalty).backward()
    return [loss.item() for loss in losses], penalty.item()


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("first", [0, 1], ids=["with the res2 loss", "without"])
def test_gradients_equal_a_naive_reference(parts, first, recompute):
    """Losses and penalty reach both copies of every shared stage with the true gradient."""
    sharing, heads, images = copy.deepcopy(parts)
    reference_encoder, reference_heads = copy.deepcopy((sharing.encoder, heads))
    losses, penalty = naive_gradients(reference_encoder, reference_heads, images, first)

    units = loco_units(sharing.encoder.stages)[first:]
    sharing._ranges, sharing.copies = sharing._ranges[first:], sharing.copies[first:]
    objectives = [lambda x, head=head: NTXent(0.5)(head(x))[0] for head in heads[first:]]
    executor = SoftSharingBackprop(sharing.encoder, units, recompute=recompute)
    assert [(unit.start, unit.end) for unit in executor.units] == [(0, 2), (2, 4), (4, 8)]
    found = executor.step(images, objectives)
    found_penalty = sharing.penalty()
    found_penalty.backward()

    assert [loss.item() for loss in found] == pytest.approx(losses, rel=1e-12)
    assert found_penalty.item() == pytest.approx(penalty, rel=1e-12)
    expected = [*reference_encoder.named_parameters(), *reference_heads.named_parameters()]
    for (name, reference), parameter in zip(expected, [*sharing.encoder.parameters(), *heads.parameters()], strict=True):
        if reference.grad is None:
            assert parameter.grad is None, name
        else:
            assert (parameter.grad - reference.grad).abs().max() <= 1e-10 * reference.grad.abs().max(), name


def batch(n: int = 4) -> dict:
    return {"views": torch.randint(0, 256, (n, 2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))}


def trained(coefficient: float, steps: int, **options) -> tuple[LocalContrastiveLearner, dict]:
    torch.manual_seed(0)
    rule = options.pop("rule", "loco")
    learner = LocalContrastiveLearner(SMALL, rule, soft_sharing=dict(coefficient=coefficient), **options)
    wrapper = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1))
    return learner, [learner.train_step(batch(), wrapper) for _ in range(steps)][-1] if steps else {}


def distance(learner: LocalContrastiveLearner) -> float:
    """Between the encoder's stages and their copies; the coefficient taken out of the penalty."""
    return 2 * learner.soft_sharing.penalty().item() / learner.soft_sharing.coefficient


def test_copies_begin_identical_and_diverge_the_less_the_larger_the_coefficient():
    """LoCo, section 5.5: "identical ... upon initialization, and they will diverge"."""
    assert distance(trained(1.0, steps=0)[0]) == 0
    distances = [distance(trained(coefficient, steps=6)[0]) for coefficient in (1e-6, 0.3, 3.0)]
    assert distances[0] > distances[1] > distances[2] > 0


def test_learner_logs_every_loss_and_the_penalty_and_knows_the_copies():
    """Names are those of hard sharing; copies are parameters, so the optimizer sees them, and normalise on their own."""
    learner, logs = trained(1e-3, steps=2)
    names = ["res2", "res3", "res4", "res5"]
    assert logs.keys() == {"loss", "penalty", *(f"{q}_{name}" for q in ("loss", "accuracy") for name in names)}
    assert logs["loss"] == pytest.approx(sum(logs[f"loss_{name}"] for name in names).item())
    assert logs["penalty"] > 0 and not logs["penalty"].requires_grad
    parameters = set(learner.parameters())
    assert all(p in parameters and p.grad is not None for stage in learner.soft_sharing.copies for p in stage.parameters())
    assert learner.heads[1].copy[0][0].bn1.num_batches_tracked == learner.encoder.layer2[0].bn1.num_batches_tracked == 2


def test_without_the_res2_loss_its_copy_is_absent():
    """``res2_loss=False`` leaves three losses and the copies of res3 and res4."""
    learner, logs = trained(1e-3, steps=1, rule=dict(type="loco", res2_loss=False))
    assert [key for key in logs if key.startswith("loss_")] == ["loss_res3", "loss_res4", "loss_res5"]
    assert [len(stage) for stage in learner.soft_sharing.copies] == [2, 2]
    assert learner.soft_sharing.copies[0][0][-1].conv1.in_channels == 16
    assert all(p.grad is not None for p in learner.parameters())


def test_export_contains_the_encoder_only(tmp_path):
    """Copies and heads stay behind."""
    learner, _ = trained(1e-3, steps=1)
    record = {"method": {}, "setting": {"encoder": SMALL}}
    torch.save({"state_dict": learner.state_dict(), RECORD_KEY: record}, tmp_path / "epoch_1.pth")
    export_backbone(tmp_path / "epoch_1.pth", tmp_path / "backbone.pth")
    exported = torch.load(tmp_path / "backbone.pth", weights_only=True)["state_dict"]
    assert exported.keys() == learner.encoder.state_dict().keys()
    assert all(torch.equal(exported[key], value) for key, value in learner.encoder.state_dict().items())


@pytest.mark.parametrize(("rule", "options", "message"), [
    ("gim", dict(coefficient=1e-3), r"units of LoCo, not \[0,2\), .*set rule=dict\(type='loco'\)"),
    (dict(type="loco", window=3), dict(coefficient=1e-3), "units of LoCo"),
    ("loco", dict(coefficient=-1), "coefficient of soft_sharing is -1; a finite number"),
    ("loco", dict(coeficient=1), "options of soft_sharing do not fit: .*coeficient"),
    ("loco", dict(), "options of soft_sharing do not fit: .*coefficient"),
])
def test_bad_options_are_refused(rule, options, message):
    """What soft sharing does not fit is named, with the mend."""
    with pytest.raises(ValueError, match=message):
        LocalContrastiveLearner("resnet18", rule, soft_sharing=options)


def test_a_single_stage_shares_nothing():
    """An encoder of one stage has one unit."""
    stages = {"res2": (0, 2)}
    encoder = build_encoder("resnet18")
    encoder.stages = stages
    with pytest.raises(ValueError, match=r"nothing to tie: \[0,2\) is the only unit"):
        SoftSharing(encoder, build_units("loco", stages), 1e-3)
