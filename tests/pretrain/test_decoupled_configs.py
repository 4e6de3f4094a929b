"""The configs of the second paper: every cell of its tables 1 and 2, and short runs of the same kind."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from pretrain.data.device_views import BatchedTwoViews
from pretrain.data.views import ViewOptions, jitter_strengths
from pretrain.engine.optimizers import check_schedule, resolve_lr
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT

FOLDER = ROOT / "configs/pretrain/subsampling"


class Setup(NamedTuple):
    """What the paper does on a data set (section 4), or a short run on it.

    Attributes:
        encoder: the encoder's config.
        ks: numbers of decoupled blocks.
        threshold: of the subsampled runs.
        split: of the data set.
        size: side of the views in pixels.
        epochs: length of the run.
        window: blocks that a loss reaches, its own included.
    """

    encoder: dict
    ks: tuple[int, ...]
    threshold: float
    split: str
    size: int
    epochs: int = 1000
    window: int = 1


SMALL = dict(type="resnet18", stem="stl", width=16)
SETUPS = {
    "resnet50_cifar10": Setup(dict(type="resnet50", stem="small"), (1, 4, 8, 16), 0.0, "train", 32),
    "resnet50_stl10": Setup(dict(type="resnet50", stem="stl"), (1, 4, 8, 16), -0.4, "unlabeled", 224),
    "resnet18_fashion_mnist": Setup(dict(type="resnet18", stem="small"), (1, 4, 8), 0.3, "train", 28),
    "resnet18_cifar10_short": Setup(SMALL, (1, 4, 8), 0.0, "train", 32, 5),
    "resnet50_cifar10_short": Setup(dict(SMALL, type="resnet50"), (16,), 0.0, "train", 32, 5),
    "window2_resnet18_cifar10_short": Setup(SMALL, (4,), 0.0, "train", 32, 5, window=2),
    "resnet18_stl10_short": Setup(SMALL, (1, 4, 8), -0.4, "train", 64, 5),
    "resnet18_fashion_mnist_short": Setup(SMALL, (1, 4, 8), 0.3, "train", 28, 5),
}
NAMES = {f"k{k}_{loss}_{name}": (k, loss, name)
         for name, setup in SETUPS.items() for k, loss in product(setup.ks, ("simclr", "subsampled"))}
ACCURACIES = {  # of the paper, in percent: SimCLR and subsampled, by the number of blocks
    "resnet50_cifar10": {1: (92.1, 91.4), 4: (90.0, 89.9), 8: (87.5, 88.4), 16: (85.9, 87.1)},
    "resnet50_stl10": {1: (87.6, 86.7), 4: (84.3, 82.6), 8: (80.8, 79.7), 16: (77.8, 78.8)},
    "resnet18_fashion_mnist": {1: (91.3, 90.3), 8: (87.2, 88.2)},
}


def resolved(name: str) -> Config:
    return Config.fromfile(str(FOLDER / f"{name}.py"), import_custom_modules=False)


def learner_of(config: Config) -> LocalContrastiveLearner:
    options = config.model.to_dict()
    assert options.pop("type") == "LocalContrastiveLearner"
    return LocalContrastiveLearner(**options)


def test_all_are_there():
    """Every data set, number of blocks and loss, in the paper's length and short, and no other."""
    assert {path.stem for path in FOLDER.iterdir() if path.suffix == ".py"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_builds_what_its_name_and_the_paper_say(name):
    """Encoder, equal blocks and how far losses reach, projectors, threshold, temperature and length of section 4."""
    config, (k, loss, setup_name) = resolved(name), NAMES[name]
    setup = SETUPS[setup_name]
    with torch.device("meta"):
        learner = learner_of(config)
    assert config.model.encoder == setup.encoder
    blocks = learner.encoder.num_blocks // k
    assert [(unit.start, unit.end) for unit in learner.units] == [
        (max(0, place + 1 - setup.window) * blocks, (place + 1) * blocks) for place in range(k)]
    assert [len(head.convs) for head in learner.heads] == [1] * (k - 1) + [0]
    assert all([type(layer) for layer in head.mlp] == [torch.nn.Linear, torch.nn.ReLU, torch.nn.Linear]
               and head.mlp[-1].out_features == 128 for head in learner.heads)
    objective = learner.objectives[0]
    assert (objective.temperature, objective.threshold) == (0.5, setup.threshold if loss == "subsampled" else None)
    assert config.train_cfg.max_epochs == setup.epochs
    check_schedule(config.param_scheduler, setup.epochs)


@pytest.mark.parametrize("name", NAMES)
def test_protocol(name):
    """Adam at a constant 1e-3, weight decay 1e-6, batch 256; crops, flips, weaker jitter, gray views, and no blur."""
    config, setup = resolved(name), SETUPS[NAMES[name][2]]
    assert resolve_lr(config.optim_wrapper.to_dict(), 256)["optimizer"] == dict(type="Adam", lr=1e-3, weight_decay=1e-6)
    assert "paramwise_cfg" not in config.optim_wrapper and config.param_scheduler is None
    assert config.train_dataloader.batch_size == 256 and config.train_dataloader.drop_last
    dataset = config.train_dataloader.dataset
    assert dataset.source in name and dataset.split == setup.split
    if "views" in dataset:
        views = ViewOptions(**dataset.views)
        assert dataset.type == "TwoViewImages" and config.data_preprocessor.type == "BaseDataPreprocessor"
    else:
        options = dict(config.data_preprocessor)
        assert options.pop("type") == "BatchedTwoViewsPreprocessor" and dataset.type == "InMemoryDataset"
        views = BatchedTwoViews(**options)
    assert (views.size, views.min_scale, views.grayscale, views.blur) == (setup.size, 0.08, 0.2, 0.0)
    assert jitter_strengths(views.color_strength) == pytest.approx((0.4, 0.4, 0.4, 0.1))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("k") and "_subsampled_" in name])
def test_losses_differ_in_nothing_else(name):
    """A subsampled run is the plain one with a threshold."""
    plain, subsampled = (resolved(name.replace("subsampled", loss)).to_dict() for loss in ("simclr", "subsampled"))
    assert subsampled["model"]["objective"].pop("threshold") == SETUPS[NAMES[name][2]].threshold
    assert plain == subsampled


@pytest.mark.parametrize("name", NAMES)
def test_docstring_states_the_papers_accuracy(name):
    """Tables 1 and 2; what they lack is said to be lacking."""
    k, loss, setup = NAMES[name]
    docstring = (FOLDER / f"{name}.py").read_text().splitlines()[0]
    accuracies = ACCURACIES.get(setup, {}).get(k)
    on_a_cpu = "an hour or two on a CPU" if k == 16 else "minutes on a CPU"
    told = f"{accuracies[loss == 'subsampled']} % in the paper" if accuracies else on_a_cpu
    assert (told if accuracies or "short" in name else "not in the paper") in docstring


@pytest.mark.parametrize("name", ["k1_simclr_resnet18_cifar10_short", "k16_subsampled_resnet50_cifar10_short",
                                  "k4_subsampled_window2_resnet18_cifar10_short", "k8_subsampled_resnet18_cifar10_short",
                                  "k4_subsampled_resnet18_fashion_mnist_short", "k8_subsampled_resnet18_stl10_short"])
def test_step(name):
    """One step of the config's learner and optimizer: losses are finite, and every parameter moves."""
    config = resolved(name)
    torch.manual_seed(0)
    learner = learner_of(config)
    wrapper = build_optim_wrapper(learner, resolve_lr(config.optim_wrapper.to_dict(), 256))
    before = [parameter.detach().clone() for parameter in learner.parameters()]
    views = torch.randint(0, 256, (8, 2, 3, 28, 28), dtype=torch.uint8)
    logs = learner.train_step({"views": views}, wrapper)
    assert all(value.isfinite() for value in logs.values())
    assert sum(key.startswith("loss_") for key in logs) == NAMES[name][0]
    assert not any(torch.equal(parameter, old) for parameter, old in zip(learner.parameters(), before, strict=True))
