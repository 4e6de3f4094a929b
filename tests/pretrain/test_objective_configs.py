"""Configs of the objectives: published recipes, and what they build."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from pretrain.data.views import TwoViews, jitter_strengths
from pretrain.engine.optimizers import check_schedule, resolve_lr
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT
from tests.pretrain.eval.written import identity_of_config

pytestmark = pytest.mark.repository
FOLDER = ROOT / "configs/pretrain/objectives"
RATES = {"barlow_twins": 0.2 * 8, "vicreg": 0.3 * 2, "byol": 0.45 * 16, "simsiam": 0.05 * 2, "moco": 0.03}
LABELS = {"barlow_twins": "Barlow Twins", "vicreg": "VICReg", "byol": "BYOL", "simsiam": "SimSiam", "moco": "MoCo v2"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_recipes(path):
    """Learning rate at the global batch, views, schedule, and a learner that the optimizer takes."""
    rule, _, name = path.stem.removesuffix("_resnet50_imagenet").partition("_")
    config = Config.fromfile(str(path), import_custom_modules=False)
    wrapper = resolve_lr(config.optim_wrapper.to_dict(), config.train_dataloader.batch_size)
    assert wrapper["optimizer"]["lr"] == pytest.approx(RATES[name])
    check_schedule(config.param_scheduler, config.train_cfg.max_epochs)
    views = TwoViews(**config.train_dataloader.dataset.views)
    assert views.size == 224
    saturation = 0.4 if name in ("moco", "simsiam") else 0.2
    assert jitter_strengths(views.color_strength, views.saturation) == pytest.approx((0.4, 0.4, saturation, 0.1))
    assert [(each.blur, each.solarize) for each in views.of_views] == {
        "vicreg": [(0.5, 0.1)] * 2, "moco": [(0.5, None)] * 2, "simsiam": [(0.5, None)] * 2,
    }.get(name, [(1.0, None), (0.1, 0.2)])
    label = {"simclr": "SimCLR", "loco": "LoCo", "gim": "GIM"}[rule] + f", {LABELS[name]}"
    assert identity_of_config(path)["method"]["label"].startswith(label)
    with torch.device("meta"):
        learner = LocalContrastiveLearner(**{key: value for key, value in config.model.items() if key != "type"})
        groups = build_optim_wrapper(learner, wrapper).optimizer.param_groups
    if name == "barlow_twins":
        assert [group["lr"] for group in groups] == pytest.approx([1.6, 0.0048 * 8])
    if rule == "gim":
        assert [head.convs[0][0].weight.shape[:2] for head in learner.heads] == [(2048, c) for c in (256, 512, 1024, 2048)]
        assert not any(isinstance(layer, nn.AvgPool2d) for layer in learner.heads.modules())
