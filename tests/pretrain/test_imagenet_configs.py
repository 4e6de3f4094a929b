"""The ImageNet configs are section 5.1 of the paper, and three of them make a step."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from pretrain.engine.optimizers import LARS, check_no_accumulation, check_schedule, resolve_lr
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT

RULES, ENCODERS, EPOCHS = ("simclr", "gim", "loco"), ("resnet50", "shufflenet_v2_50", "presnet50"), (100, 800)
NAMES = {f"{rule}_{encoder}_imagenet_{epochs}e": (rule, encoder, epochs)
         for rule, encoder, epochs in product(RULES, ENCODERS, EPOCHS)}


def resolved(name: str) -> Config:
    return Config.fromfile(str(ROOT / f"configs/pretrain/{name}.py"), import_custom_modules=False)


def test_all_are_there():
    """Three rules, three encoders, two lengths, and no other."""
    assert {path.stem for path in ROOT.glob("configs/pretrain/*_imagenet_*.py")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_is_what_its_name_and_the_paper_say(name):
    """Rule, encoder and epochs of the name; optimizer, rate, schedule, batch and views of section 5.1 and SimCLR."""
    config, (rule, encoder, epochs) = resolved(name), NAMES[name]
    assert (config.model.rule.type, config.model.encoder.type) == (rule, encoder)
    assert (config.model.head.conv_blocks, config.model.head.mlp_layers, config.model.head.out_channels) == (
        1 if rule == "loco" else 0, 2, 128)
    assert (config.model.objective.temperature, config.model.autocast, config.model.channels_last) == (0.1, "bfloat16", True)
    assert config.train_cfg.max_epochs == epochs
    assert config.train_dataloader.batch_size == 4096 and config.train_dataloader.drop_last
    dataset = config.train_dataloader.dataset
    assert (dataset.source, dataset.split, dataset.views.size, dataset.views.min_scale) == ("imagenet", "train", 224, 0.08)

    wrapper = resolve_lr(config.optim_wrapper.to_dict(), 4096)
    check_no_accumulation(wrapper)
    assert wrapper["optimizer"] == dict(type="LARS", lr=pytest.approx(4.8), momentum=0.9, weight_decay=1e-6)
    assert wrapper["paramwise_cfg"] == dict(exclude_norm_and_bias=True)
    warm_up, cosine = config.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end, cosine.type, cosine.begin) == (
        "LinearLR", 0, 10, "CosineAnnealingLR", 10)
    assert "end" not in cosine  # train_cfg's, whatever it is
    check_schedule(config.param_scheduler, epochs)


@pytest.mark.parametrize(("rule", "encoder"), list(product(RULES, ENCODERS)))
def test_lengths_differ_in_nothing_else(rule, encoder):
    """100 and 800 epochs of the same."""
    short, long = (resolved(f"{rule}_{encoder}_imagenet_{epochs}e").to_dict() for epochs in EPOCHS)
    short["train_cfg"]["max_epochs"] = 800
    assert short == long


SHARED_RUNS = {
    "table4_none": "simclr_resnet50", "table4_none_local": "gim_resnet50", "table4_ours": "loco_resnet50",
    "table5_1stage": "loco_resnet50", **{f"table7_presnet50_{rule}": f"{rule}_presnet50" for rule in RULES},
}


@pytest.mark.parametrize("ablation", SHARED_RUNS)
def test_rows_of_tables_4_5_and_7_are_the_runs_of_tables_2_and_3(ablation):
    """So that nobody trains them twice."""
    assert resolved(f"ablations/{ablation}").to_dict() == resolved(f"{SHARED_RUNS[ablation]}_imagenet_100e").to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simclr_shufflenet_v2_50_imagenet_100e", "gim_presnet50_imagenet_100e",
                                  "loco_resnet50_imagenet_800e"])
def test_step_in_bfloat16(name):
    """One step of the config's learner and optimizer at its full rate: losses are finite, every weight moves with LARS."""
    config = resolved(name)
    torch.manual_seed(0)
    model = config.model.to_dict()
    assert model.pop("type") == "LocalContrastiveLearner"
    learner = LocalContrastiveLearner(**model)
    wrapper = build_optim_wrapper(learner, resolve_lr(config.optim_wrapper.to_dict(), 4096))
    assert type(wrapper.optimizer) is LARS
    weights, excluded = wrapper.optimizer.param_groups
    assert weights["adapt"] is True and excluded["adapt"] is False and excluded["weight_decay"] == 0
    before = [parameter.detach().clone() for parameter in weights["params"]]
    views = torch.randint(0, 256, (4, 2, 3, 64, 64), dtype=torch.uint8)  # smaller maps let batch norm blow gradients up
    logs = learner.train_step({"views": views}, wrapper)
    assert all(value.isfinite() for value in logs.values())
    for parameter, old in zip(weights["params"], before, strict=True):
        moved = float((parameter.detach() - old).norm() / old.norm())
        assert moved == pytest.approx(4.8 * 0.001, rel=0.02)  # lr * trust_coefficient of its norm, whatever the gradient
