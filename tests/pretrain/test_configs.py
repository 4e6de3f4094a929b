"""Pretraining configs are what the papers say, build, and make a step."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from pretrain.data.device_views import BatchedTwoViews
from pretrain.data.views import ViewOptions, jitter_strengths
from pretrain.engine.optimizers import LARS, check_no_accumulation, check_schedule, resolve_lr
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT

pytestmark = pytest.mark.repository
FOLDER = ROOT / "configs/pretrain"
SIMCLR = "[0,16)"
GIM = "[0,3) [3,7) [7,13) [13,16)"
LOCO = "[0,3) [0,7) [3,13) [7,16)"


class Row(NamedTuple):
    """A row of a table of LoCo's.

    Attributes:
        units: as the learner writes them.
        convs: 3x3 convolutions of each head, which is one per residual block; by unit, or the same number for all.
        linears: linear layers of every head.
        downsample: whether heads with convolutions reduce the resolution.
        accuracy: the paper's, which the docstring states.
    """

    units: str
    convs: int | tuple[int, ...]
    linears: int = 2
    downsample: bool = True
    accuracy: str | None = None


ROWS = {
    "simclr_resnet50_imagenet": Row(SIMCLR, 0),
    "gim_resnet50_imagenet": Row(GIM, 0),
    "loco_resnet50_imagenet": Row(LOCO, 1),
    "simclr_shufflenet_v2_50_imagenet": Row(SIMCLR, 0),
    "gim_shufflenet_v2_50_imagenet": Row(GIM, 0),
    "loco_shufflenet_v2_50_imagenet": Row(LOCO, (2, 2, 2, 2)),
    "simclr_presnet50_imagenet": Row("[0,18)", 0),
    "gim_presnet50_imagenet": Row("[0,3) [3,6) [6,9) [9,12) [12,15) [15,18)", 0),
    "loco_presnet50_imagenet": Row("[0,3) [0,6) [3,9) [6,12) [9,15) [12,18)", (2, 2, 1, 1, 1, 1)),
    "ablations/table4_1conv": Row(SIMCLR, 1, accuracy="65.6"),
    "ablations/table4_1conv_nods_local": Row(GIM, 1, downsample=False, accuracy="63.6"),
    "ablations/table4_1conv_local": Row(GIM, 1, accuracy="65.1"),
    "ablations/table4_2conv_local": Row(GIM, 2, accuracy="65.8"),
    "ablations/table4_1stage_local": Row(GIM, (4, 6, 3, 3), accuracy="65.8"),
    "ablations/table4_network_local": Row(GIM, (13, 9, 3, 0), accuracy="65.8"),
    "ablations/table4_2mlp": Row(SIMCLR, 0, linears=4, accuracy="67.1"),
    "ablations/table4_2mlp_local": Row(GIM, 0, linears=4, accuracy="62.3"),
    "ablations/table4_ours_2mlp": Row(LOCO, 1, linears=4, accuracy="67.5"),
    "ablations/table5_upper_gradient": Row("[0,7) updating [0,3) [3,13) updating [3,7) [7,16)", 1, accuracy="65.3"),
    "ablations/table5_l2_1e-4": Row(LOCO, 1, accuracy="65.5"),
    "ablations/table5_l2_1e-3": Row(LOCO, 1, accuracy="66.0"),
    "ablations/table5_l2_1e-2": Row(LOCO, 1, accuracy="65.9"),
    "ablations/table5_1block": Row("[0,4) [3,8) [7,14) [13,16)", 1, accuracy="64.8"),
    "ablations/table5_2blocks": Row("[0,5) [3,9) [7,15) [13,16)", 1, accuracy="65.3"),
    "ablations/review_no_res2_loss": Row("[0,7) [3,13) [7,16)", 1),
    "ablations/review_window3": Row("[0,3) [0,7) [0,13) [3,16)", 1),
    "ablations/review_window4": Row("[0,3) [0,7) [0,13) [0,16)", 1),
    "ablations/review_simclr_1conv_2mlp": Row(SIMCLR, 1, linears=4),
    "ablations/review_sequential_gim": Row(GIM, 0),
}


def resolved(name: str, **options) -> Config:
    """A config below ``configs/pretrain``, with overrides by dotted name."""
    config = Config.fromfile(str(FOLDER / f"{name}.py"), import_custom_modules=False)
    config.merge_from_dict({key.replace("__", "."): value for key, value in options.items()})
    return config


def learner_of(config: Config) -> LocalContrastiveLearner:
    options = config.model.to_dict()
    assert options.pop("type") == "LocalContrastiveLearner"
    return LocalContrastiveLearner(**options)


def count(module: nn.Module, kind: type[nn.Module], **attributes) -> int:
    return sum(
        isinstance(m, kind) and all(getattr(m, key) == value for key, value in attributes.items()) for m in module.modules()
    )


def assert_step_moves_everything(learner: LocalContrastiveLearner, config: Config, size: int) -> dict:
    """One step at the config's optimizer: losses are finite, and every parameter moves."""
    before = [parameter.detach().clone() for parameter in learner.parameters()]
    views = torch.randint(0, 256, (8, 2, 3, size, size), dtype=torch.uint8)
    batch_size = config.train_dataloader.batch_size
    logs = learner.train_step({"views": views},
                              build_optim_wrapper(learner, resolve_lr(config.optim_wrapper.to_dict(), batch_size)))
    assert all(value.isfinite() for value in logs.values())
    assert not any(torch.equal(parameter, old) for parameter, old in zip(learner.parameters(), before, strict=True))
    return logs


def test_rows_are_all_configs_of_imagenet():
    """LoCo's Tables 1 to 3 and 7, the rows of Tables 4 and 5 that are not among them, and the reviewers' questions."""
    found = {*FOLDER.glob("*_imagenet.py"), *FOLDER.glob("ablations/*.py")}
    assert {str(path.relative_to(FOLDER).with_suffix("")) for path in found} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_units_and_heads_are_the_rows(name):
    """And the docstring states the paper's accuracy."""
    row, config = ROWS[name], resolved(name)
    with torch.device("meta"):
        learner = learner_of(config)
        heads = [head.head if hasattr(head, "copy") else head for head in learner.heads]
        assert " ".join(map(str, learner.units)) == row.units
        convs = row.convs if isinstance(row.convs, tuple) else (row.convs,) * len(heads)
        assert [count(head.convs, nn.Conv2d, kernel_size=(3, 3)) for head in heads] == list(convs)
        for head, unit in zip(heads, learner.units, strict=True):
            linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
            assert (len(linears), linears[-1].out_features) == (row.linears, 128)
            assert count(head.mlp, nn.BatchNorm1d) == row.linears - 1
            maps = head.convs(torch.zeros(2, learner.encoder.block_channels[unit.end - 1], 8, 8))
            assert (maps.shape[-1] < 8) == (row.downsample and len(head.convs) > 0)
    assert (config.model.soft_sharing.coefficient == float(name[-4:])) if "_l2_" in name else (
        "soft_sharing" not in config.model)
    if row.accuracy:
        docstring = (FOLDER / f"{name}.py").read_text().splitlines()[0]
        assert docstring.startswith(f'"""Table {name[15]}, "') and f"{row.accuracy} % in the paper" in docstring


@pytest.mark.parametrize("name", ROWS)
def test_protocol_is_section_5_1(name):
    """LARS at 4.8 for a batch of 4096, 10 epochs of warm-up, cosine to the end whatever the epochs, 224 px, bfloat16."""
    config = resolved(name)
    assert (config.model.objective.temperature, config.model.autocast, config.model.channels_last) == (0.1, "bfloat16", True)
    assert config.train_dataloader.batch_size == 4096 and config.train_dataloader.drop_last
    dataset = config.train_dataloader.dataset
    assert (dataset.source, dataset.split, dataset.views.size, dataset.views.min_scale) == ("imagenet", "train", 224, 0.08)
    wrapper = resolve_lr(config.optim_wrapper.to_dict(), 4096)
    check_no_accumulation(wrapper)
    assert wrapper["optimizer"] == dict(type="LARS", lr=pytest.approx(4.8), momentum=0.9, weight_decay=1e-6)
    assert wrapper["paramwise_cfg"] == dict(exclude_norm_and_bias=True)
    if "sequential" in name:
        assert config.train_cfg.max_epochs == 400
        return
    assert config.train_cfg.max_epochs == 100
    warm_up, cosine = config.param_scheduler
    assert (warm_up.type, warm_up.begin, warm_up.end, cosine.type, cosine.begin) == (
        "LinearLR", 0, 10, "CosineAnnealingLR", 10)
    assert "end" not in cosine
    for epochs in (100, 800):
        check_schedule(config.param_scheduler, epochs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ablations/table5_l2_1e-3", "simclr_shufflenet_v2_50_imagenet"])
def test_step_with_lars(name):
    """One step at the full rate: every weight moves by lr times the trust coefficient of its norm, whatever the gradient."""
    torch.manual_seed(0)
    config = resolved(name)
    learner = learner_of(config)
    wrapper = build_optim_wrapper(learner, resolve_lr(config.optim_wrapper.to_dict(), 4096))
    assert type(wrapper.optimizer) is LARS
    weights, excluded = wrapper.optimizer.param_groups
    assert weights["adapt"] is True and excluded["adapt"] is False and excluded["weight_decay"] == 0
    before = [parameter.detach().clone() for parameter in weights["params"]]
    views = torch.randint(0, 256, (4, 2, 3, 64, 64), dtype=torch.uint8)  # smaller maps let batch norm blow gradients up
    logs = learner.train_step({"views": views}, wrapper)
    assert all(value.isfinite() for value in logs.values()) and ("penalty" in logs) == ("l2" in name)
    for parameter, old in zip(weights["params"], before, strict=True):
        moved = float((parameter.detach() - old).norm() / old.norm())
        assert moved == pytest.approx(4.8 * 0.001, rel=0.02)


class Setup(NamedTuple):
    """What the second paper does on a data set (section 4), or a short run on it."""

    encoder: dict
    threshold: float
    split: str
    size: int
    epochs: int = 1000


SMALL = dict(type="resnet18", stem="stl", width=16)
SETUPS = {
    "decoupled_resnet50_cifar10": Setup(dict(type="resnet50", stem="small"), 0.0, "train", 32),
    "decoupled_resnet50_stl10": Setup(dict(type="resnet50", stem="stl"), -0.4, "unlabeled", 224),
    "decoupled_resnet18_fashion_mnist": Setup(dict(type="resnet18", stem="small"), 0.3, "train", 28),
    "decoupled_resnet18_cifar10_short": Setup(SMALL, 0.0, "train", 32, 5),
    "decoupled_resnet18_stl10_short": Setup(SMALL, -0.4, "train", 64, 5),
    "decoupled_resnet18_fashion_mnist_short": Setup(SMALL, 0.3, "train", 28, 5),
}


@pytest.mark.parametrize(("name", "k"), [(name, k) for name, k in product(SETUPS, (1, 8, 16)) if k < 16 or "50" in name])
def test_decoupled_configs_are_section_4(name, k):
    """Equal blocks, projectors, temperature, length; Adam at a constant 1e-3, batch 256; weaker jitter and no blur."""
    setup, config = SETUPS[name], resolved(name, model__rule__k=k)
    with torch.device("meta"):
        learner = learner_of(config)
    assert config.model.encoder == setup.encoder and config.train_cfg.max_epochs == setup.epochs
    blocks = learner.encoder.num_blocks // k
    assert [(unit.start, unit.end) for unit in learner.units] == [(i * blocks, (i + 1) * blocks) for i in range(k)]
    assert [len(head.convs) for head in learner.heads] == [1] * (k - 1) + [0]
    assert all([type(layer) for layer in head.mlp] == [nn.Linear, nn.ReLU, nn.Linear]
               and head.mlp[-1].out_features == 128 for head in learner.heads)
    assert (learner.objectives[0].temperature, learner.objectives[0].threshold) == (0.5, None)
    assert resolve_lr(config.optim_wrapper.to_dict(), 256)["optimizer"] == dict(type="Adam", lr=1e-3, weight_decay=1e-6)
    assert "paramwise_cfg" not in config.optim_wrapper and config.param_scheduler is None
    assert config.train_dataloader.batch_size == 256 and config.train_dataloader.drop_last
    dataset = config.train_dataloader.dataset
    assert dataset.source in name and dataset.split == setup.split
    options = dict(dataset.get("views") or config.data_preprocessor)
    options.pop("type", None)
    views = (ViewOptions if "views" in dataset else BatchedTwoViews)(**options)
    assert (views.size, views.min_scale, views.grayscale, views.blur) == (setup.size, 0.08, 0.2, 0.0)
    assert jitter_strengths(views.color_strength) == pytest.approx((0.4, 0.4, 0.4, 0.1))


@pytest.mark.parametrize("name", [name for name in SETUPS if name.endswith("short")])
def test_subsampled_step(name):
    """The objective's threshold is an option; with LoCo's overlap as another, every parameter moves."""
    torch.manual_seed(0)
    config = resolved(name, model__rule__k=4, model__rule__window=2, model__objective__threshold=SETUPS[name].threshold)
    learner = learner_of(config)
    assert [str(unit) for unit in learner.units] == ["[0,2)", "[0,4)", "[2,6)", "[4,8)"]
    logs = assert_step_moves_everything(learner, config, 28)
    assert sum(key.startswith("loss_") for key in logs) == 4


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_rule_is_that_of_the_name(path):
    """And the learner builds."""
    config = resolved(path.stem)
    with torch.device("meta"):
        assert learner_of(config).units
    assert config.model.rule.type == path.stem.split("_")[0]
