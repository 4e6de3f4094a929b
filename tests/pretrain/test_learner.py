"""The mmengine model: it learns, in bfloat16 too, in plain torch too."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import pytest
import torch
import torchvision
from mmengine.optim import OptimWrapper

import pretrain
import tests.pretrain.custom_method  # noqa: F401  (registers an objective and a rule)
from pretrain.engine.optimizers import LossScalingOptimWrapper
from pretrain.learner import LocalContrastiveLearner, check_model
from pretrain.objectives import OBJECTIVES, Objective


def batch(n: int = 8) -> dict:
    """Two noisy copies each of ``n`` smooth random images, ``(n, 2, 3, 32, 32)`` uint8."""
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(n, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    views = images[:, None] + 0.05 * torch.randn(n, 2, 3, 32, 32, generator=generator)
    return {"views": (255 * views.clamp(0, 1)).to(torch.uint8)}


@pytest.mark.parametrize("rule", ["simclr", "gim", "loco"])
@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_every_unit_learns(rule, autocast):
    """Ten steps on one batch at least halve the loss of every unit."""
    torch.manual_seed(0)
    encoder = dict(type="resnet18", width=32)
    learner = LocalContrastiveLearner(encoder, rule, dict(conv_blocks=1), autocast=autocast, channels_last=True)
    wrapper = OptimWrapper(torch.optim.AdamW(learner.parameters(), lr=1e-3))
    logs = [learner.train_step(batch(), wrapper) for _ in range(10)]
    units = ["res5"] if rule == "simclr" else ["res2", "res3", "res4", "res5"]
    assert logs[0].keys() == {"loss", *(f"loss_{u}" for u in units), *(f"accuracy_{u}" for u in units)}
    for unit in units:
        assert logs[-1][f"loss_{unit}"] < 0.5 * logs[0][f"loss_{unit}"], unit


def test_kept_shares_are_logged_for_every_unit():
    """They are those of the units' projections, counted pair by pair; the loss is what the units train on."""
    torch.manual_seed(0)
    learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "gim", objective=dict(type="NTXent", threshold=0.5))
    images = batch()["views"].transpose(0, 1).flatten(0, 1)
    with torch.no_grad():
        features = copy.deepcopy(learner)(images)
        projections = {unit: copy.deepcopy(head)(features[unit])
                       for unit, head in zip(features, learner.heads, strict=True)}
    logs = learner.train_step(batch(), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
    quantities = ("loss", "accuracy", "kept_positive", "kept_negative")
    assert list(logs) == ["loss", *(f"{quantity}_{unit}" for quantity in quantities for unit in features)]
    for unit, z in projections.items():
        kept = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2) >= 0.5  # (16, 16)
        positives = kept[:8, 8:].diagonal()
        assert logs[f"kept_positive_{unit}"].item() == pytest.approx(positives.float().mean().item())
        negatives = kept.sum() - kept.diagonal().sum() - 2 * positives.sum()
        assert logs[f"kept_negative_{unit}"].item() == pytest.approx(negatives.item() / (16 * 14))
    assert 0 < sum(logs[f"kept_negative_{unit}"] for unit in features) < 4  # the threshold tells pairs apart


def test_a_users_objective_is_trained_saved_and_left_out_of_the_encoder():
    """Its parameter moves, its buffer is in the state dict, its own metric is logged for every unit."""
    objective = dict(type="LearnedScale", weight=2.0)
    learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "halves", objective=objective)
    wrapper = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1))
    logs = [learner.train_step(batch(), wrapper) for _ in range(3)]
    assert list(logs[0]) == ["loss", "loss_res2", "loss_res5", "spread_res2", "spread_res5"]
    state = learner.state_dict()
    assert [state[f"objectives.{unit}.steps"].item() for unit in (0, 1)] == [3, 3]
    assert all(objective.scale.item() != 2.0 for objective in learner.objectives)
    assert not any("objectives" in key for key in learner.encoder.state_dict())


@OBJECTIVES.register_module()
class CollidingNames(Objective):
    """Measures something that is called like a unit's loss."""

    def forward(self, projections):
        return projections.square().mean(), {"loss_weight": projections.mean().detach()}


def test_a_metric_that_is_called_like_a_loss_is_refused():
    """In the log it would be the loss of a unit called weight_res2."""
    learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "gim", objective="CollidingNames")
    with pytest.raises(ValueError, match="CollidingNames logs 'loss_weight'"):
        learner.train_step(batch(), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))


def test_a_step_without_any_pair_changes_no_weight():
    """No positive of two noisy views is equal to the last digit: every loss is 0, and no weight is touched."""
    torch.manual_seed(0)
    learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "loco", objective=dict(type="NTXent", threshold=1.0))
    before = [parameter.detach().clone() for parameter in learner.parameters()]
    logs = learner.train_step(batch(), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
    assert {value.item() for key, value in logs.items() if key.startswith(("loss", "kept_positive"))} == {0.0}
    assert all(map(torch.equal, before, learner.parameters()))


def test_five_lines_of_plain_torch():
    """A torchvision model, whose own weights are trained; gradients are those of a learner built by name."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18()
    learner = pretrain.LocalContrastiveLearner(pretrain.ResNetEncoder(net), rule="loco", head=dict(conv_blocks=1))
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    named = LocalContrastiveLearner("resnet18", "loco", dict(conv_blocks=1))
    named.load_state_dict(learner.state_dict())
    wrapper = OptimWrapper(torch.optim.SGD(named.parameters(), lr=0.1))

    logs = learner.backward(batch()["views"])
    gradients = [parameter.grad.clone() for parameter in learner.parameters()]
    before = net.layer4[1].conv2.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(net.layer4[1].conv2.weight, before) and net.fc.weight.grad is None
    assert logs == named.train_step(batch(), wrapper)
    assert all(torch.equal(grad, parameter.grad) for grad, parameter in zip(gradients, named.parameters(), strict=True))
    with pytest.raises(ValueError, match="fresh_encoder"):
        LocalContrastiveLearner(pretrain.ResNetEncoder(net), "loco", dict(conv_blocks="stage"))


def test_features_of_every_stage():
    """Images in, feature maps out, normalised as in training."""
    learner = LocalContrastiveLearner("resnet18", "loco").eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = learner(images)
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        "res2": (2, 64, 16, 16), "res3": (2, 128, 8, 8), "res4": (2, 256, 4, 4), "res5": (2, 512, 2, 2)
    }
    expected = learner.encoder((images.float() - learner.mean) / learner.std)
    assert torch.equal(features["res5"], expected["res5"])


@pytest.mark.parametrize("recompute", ["norm", "stage", "block"])
def test_recomputation_changes_nothing(recompute):
    """It is passed on to the executor, and a step yields the same losses and weights."""
    results = []
    for mode in ("none", recompute):
        torch.manual_seed(0)
        learner = LocalContrastiveLearner("resnet18", "loco", recompute=mode)
        logs = learner.train_step(batch(4), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
        assert learner.backprop.recompute == mode
        results.append({**logs, **learner.state_dict()})
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_images_are_freed_before_the_upper_units_run(monkeypatch):
    """The learner keeps no reference to the normalised images, so GIM frees them with its first stage."""
    learner = LocalContrastiveLearner("resnet18", "gim")
    normalise, images, alive = learner.normalise, [], []

    def watched(views):
        result = normalise(views)
        images.append(weakref.ref(result))
        return result

    monkeypatch.setattr(learner, "normalise", watched)
    learner.encoder.conv1.register_forward_hook(lambda m, args, out: images.append(weakref.ref(args[0])))
    learner.encoder.layer3[0].register_forward_hook(lambda m, args, out: alive.extend(i() is not None for i in images))
    learner.train_step(batch(4), OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1)))
    assert alive == [False, False]  # nor what the stem takes of them


def test_bad_options_are_refused():
    """Unknown values and options, and gradient accumulation, which a contrastive loss does not survive."""
    with pytest.raises(ValueError, match="autocast is 'half'"):
        LocalContrastiveLearner("resnet18", "loco", autocast="half")
    with pytest.raises(ValueError, match="unknown recompute mode 'stages'"):
        LocalContrastiveLearner("resnet18", "loco", recompute="stages")
    with pytest.raises(ValueError, match="options of head do not fit: .*conv_layers"):
        LocalContrastiveLearner("resnet18", "loco", dict(conv_layers=1))
    for objective in ("NTXnet", dict(type="NTXent", treshold=0.5), dict(type="NTXent", threshold=1.5), dict(threshold=0.5)):
        with pytest.raises(ValueError):
            LocalContrastiveLearner("resnet18", "loco", objective=objective)
    learner = LocalContrastiveLearner("resnet18", "simclr")
    wrapper = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1), accumulative_counts=2)
    with pytest.raises(ValueError, match="without accumulation"):
        learner.train_step(batch(), wrapper)


@pytest.mark.parametrize("options", [dict(rule="loco"), dict(rule="loco", soft_sharing=dict(coefficient=0.1))])
def test_float16_scales_every_loss(options):
    """A scaled step changes weights as an unscaled one in float32 does; losses are logged unscaled."""
    steps = []
    for autocast, wrap in ((None, OptimWrapper), ("float16", partial(LossScalingOptimWrapper, init_scale=256.0))):
        torch.manual_seed(0)
        learner = LocalContrastiveLearner(dict(type="resnet18", stem="small", width=16), autocast=autocast, **options)
        before = torch.cat([p.detach().flatten() for p in learner.parameters()])
        logs = learner.train_step(batch(), wrap(optimizer=torch.optim.SGD(learner.parameters(), lr=0.1)))
        steps.append((logs, torch.cat([p.detach().flatten() for p in learner.parameters()]) - before))
    (expected, exact), (found, half) = steps
    assert {k: v.item() for k, v in found.items()} == pytest.approx({k: v.item() for k, v in expected.items()}, abs=0.3)
    assert torch.nn.functional.cosine_similarity(half, exact, dim=0) > 0.9
    assert half.norm() / exact.norm() == pytest.approx(1, abs=0.1)


def test_wrapper_and_precision_belong_together():
    """float16 without loss scaling loses small gradients in silence, scaling without float16 is a mistake."""
    for autocast, wrap in (("float16", OptimWrapper), (None, LossScalingOptimWrapper)):
        learner = LocalContrastiveLearner(dict(type="resnet18", width=8), "simclr", autocast=autocast)
        wrapper = wrap(optimizer=torch.optim.SGD(learner.parameters(), lr=0.1))
        with pytest.raises(ValueError, match=f"autocast is {autocast!r}, but the optimizer wrapper is {wrap.__name__}"):
            learner.train_step(batch(), wrapper)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["gim", "loco"])
def test_compiled_blocks_change_nothing(rule):
    """Graphs captured block by block serve several backward passes, and weights keep their names."""
    results = []
    for backend in (None, "aot_eager"):
        torch.manual_seed(0)
        learner = LocalContrastiveLearner(dict(type="resnet18", width=8), rule, compile=backend)
        wrapper = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1))
        results.append([learner.train_step(batch(4), wrapper) for _ in range(2)][-1] | learner.state_dict())
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_compilation_and_recomputation_exclude_each_other():
    """A compiled block's graph cannot be taken apart into recompute rules."""
    with pytest.raises(ValueError, match="compile='inductor' cannot be combined with recompute='norm'"):
        LocalContrastiveLearner("resnet18", "loco", compile="inductor", recompute="norm")


def test_an_unknown_option_of_a_configs_model_is_refused():
    """With the nearest option; those of a user's own model are not known."""
    check_model(dict(type="LocalContrastiveLearner", encoder="resnet18", rule="loco"))
    check_model(dict(type="Own", rulle="loco"))
    with pytest.raises(ValueError, match="'rulle'.*mean 'rule'"):
        check_model(dict(type="LocalContrastiveLearner", encoder="resnet18", rulle="loco"))
