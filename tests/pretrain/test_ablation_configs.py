"""Every ablation config builds what its row of the paper says, and makes a training step."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from pretrain.engine.optimizers import LARS, resolve_lr
from pretrain.learner import LocalContrastiveLearner
from tests.conftest import ROOT

CONFIGS = {path.stem: path for path in sorted(ROOT.glob("configs/pretrain/ablations/*.py"))}

SIMCLR = "[0,16)"
GIM = "[0,3) [3,7) [7,13) [13,16)"
LOCO = "[0,3) [0,7) [3,13) [7,16)"


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        units: as the learner spells them.
        convs: 3x3 convolutions of each head, which is one a residual block; by unit, or the same number for all.
        linears: linear layers of every head.
        downsample: whether heads with convolutions reduce the resolution.
        accuracy: the paper's, as it stands in the docstring.
    """

    units: str
    convs: int | tuple[int, ...]
    linears: int = 2
    downsample: bool = True
    accuracy: str | None = None


ROWS = {
    "table4_none": Row(SIMCLR, 0, accuracy="65.7"),
    "table4_none_local": Row(GIM, 0, accuracy="60.9"),
    "table4_1conv": Row(SIMCLR, 1, accuracy="65.6"),
    "table4_1conv_nods_local": Row(GIM, 1, downsample=False, accuracy="63.6"),
    "table4_1conv_local": Row(GIM, 1, accuracy="65.1"),
    "table4_2conv_local": Row(GIM, 2, accuracy="65.8"),
    "table4_1stage_local": Row(GIM, (4, 6, 3, 3), accuracy="65.8"),
    "table4_network_local": Row(GIM, (13, 9, 3, 0), accuracy="65.8"),
    "table4_2mlp": Row(SIMCLR, 0, linears=4, accuracy="67.1"),
    "table4_2mlp_local": Row(GIM, 0, linears=4, accuracy="62.3"),
    "table4_ours": Row(LOCO, 1, accuracy="66.2"),
    "table4_ours_2mlp": Row(LOCO, 1, linears=4, accuracy="67.5"),
    "table5_no_sharing": Row(GIM, 1, accuracy="65.1"),
    "table5_upper_gradient": Row("[0,7) updating [0,3) [3,13) updating [3,7) [7,16)", 1, accuracy="65.3"),
    "table5_l2_1e-4": Row(LOCO, 1, accuracy="65.5"),
    "table5_l2_1e-3": Row(LOCO, 1, accuracy="66.0"),
    "table5_l2_1e-2": Row(LOCO, 1, accuracy="65.9"),
    "table5_1block": Row("[0,4) [3,8) [7,14) [13,16)", 1, accuracy="64.8"),
    "table5_2blocks": Row("[0,5) [3,9) [7,15) [13,16)", 1, accuracy="65.3"),
    "table5_1stage": Row(LOCO, 1, accuracy="66.2"),
    "table7_presnet50_simclr": Row("[0,18)", 0, accuracy="66.8"),
    "table7_presnet50_gim": Row("[0,3) [3,6) [6,9) [9,12) [12,15) [15,18)", 0, accuracy="52.6"),
    "table7_presnet50_loco": Row("[0,3) [0,6) [3,9) [6,12) [9,15) [12,18)", (2, 2, 1, 1, 1, 1), accuracy="66.6"),
    "review_no_res2_loss": Row("[0,7) [3,13) [7,16)", 1),
    "review_window3": Row("[0,3) [0,7) [0,13) [3,16)", 1),
    "review_window4": Row("[0,3) [0,7) [0,13) [0,16)", 1),
    "review_simclr_1conv_2mlp": Row(SIMCLR, 1, linears=4),
    "review_sequential_gim": Row(GIM, 0),
}


def resolved(name: str) -> Config:
    return Config.fromfile(str(CONFIGS[name]), import_custom_modules=False)


def count(module: nn.Module, kind: type[nn.Module], **attributes) -> int:
    return sum(
        isinstance(m, kind) and all(getattr(m, key) == value for key, value in attributes.items()) for m in module.modules()
    )


def test_every_row_has_a_config():
    """12 rows of table 4, 8 of table 5, 3 of table 7, and the reviewers' questions."""
    assert CONFIGS.keys() == ROWS.keys()
    tables = [name.split("_")[0] for name in CONFIGS]
    assert {t: tables.count(t) for t in tables} == {"table4": 12, "table5": 8, "table7": 3, "review": 5}


@pytest.mark.parametrize("name", ROWS)
def test_config_builds_its_row_and_trains(name):
    """Units and head layers are the row's; one step at the config's temperature and optimizer changes all it should."""
    row, config = ROWS[name], resolved(name)
    torch.manual_seed(0)
    model = config.model.to_dict()
    assert model.pop("type") == "LocalContrastiveLearner"
    assert model["encoder"] == {"type": "presnet50" if "presnet50" in name else "resnet50"}
    learner = LocalContrastiveLearner(**model)
    heads = [head.head if hasattr(head, "copy") else head for head in learner.heads]

    assert " ".join(map(str, learner.units)) == row.units
    convs = row.convs if isinstance(row.convs, tuple) else (row.convs,) * len(heads)
    assert [count(head.convs, nn.Conv2d, kernel_size=(3, 3)) for head in heads] == list(convs)
    for head, unit in zip(heads, learner.units, strict=True):
        linears = [m for m in head.mlp if isinstance(m, nn.Linear)]
        assert (len(linears), linears[-1].out_features) == (row.linears, 128)
        assert count(head.mlp, nn.BatchNorm1d) == row.linears - 1
        with torch.no_grad():
            maps = head.convs(torch.zeros(2, learner.encoder.block_channels[unit.end - 1], 8, 8))
        assert (maps.shape[-1] < 8) == (row.downsample and len(head.convs) > 0)

    before = [parameter.detach().clone() for parameter in learner.parameters()]
    views = torch.randint(0, 256, (4, 2, 3, 32, 32), dtype=torch.uint8)
    wrapper = build_optim_wrapper(learner, resolve_lr(config.optim_wrapper.to_dict(), 4))
    logs = learner.train_step({"views": views}, wrapper)
    assert all(value.isfinite() for value in logs.values())
    assert ("penalty" in logs) == ("l2" in name)
    assert all(p.grad is not None and not torch.equal(p, old) for p, old in zip(learner.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ROWS)
def test_protocol(name):
    """100 epochs of section 5.1's optimizer at 224 px; the docstring names the row and the paper's accuracy."""
    config, row = resolved(name), ROWS[name]
    assert config.train_cfg.max_epochs == (400 if "sequential" in name else 100)
    assert config.train_dataloader.dataset.views.size == 224
    optimizer = resolve_lr(config.optim_wrapper.to_dict(), config.train_dataloader.batch_size)["optimizer"]
    assert optimizer["type"] == LARS.__name__ and optimizer["lr"] == pytest.approx(4.8)
    docstring = CONFIGS[name].read_text().splitlines()[0]
    if row.accuracy is None:
        assert docstring.startswith(('"""Review ', '"""Section ')) and " % " not in docstring
    else:
        assert docstring.startswith(f'"""Table {name[5]}, "') and f"{row.accuracy} % in the paper" in docstring


def test_soft_sharing_coefficients():
    """1e-4, 1e-3 and 1e-2."""
    for name in (name for name in CONFIGS if "_l2_" in name):
        assert resolved(name).model.soft_sharing.coefficient == float(name.removeprefix("table5_l2_"))


def test_documentation_lists_exactly_what_exists():
    """Every config has its line in docs/ablations.md, with the paper's accuracy and its units; there are no others."""
    text = (ROOT / "docs/ablations.md").read_text()
    assert set(re.findall(r"`((?:table|review)\w[\w-]*)`", text)) == set(CONFIGS)
    by_name = {"SimCLR": SIMCLR, "GIM": GIM, "LoCo": LOCO}
    for name, row in ROWS.items():
        line = next(line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line)
        assert row.accuracy is None or f"| {row.accuracy} |" in line
        units = re.sub("`|, softly shared|, one after the other", "", line.split("|")[-2]).strip()
        assert by_name.get(units, units.replace("), ", ") ")) == row.units, name
