"""The mmengine model: it learns, in bfloat16 too, and reads out."""

from __future__ import annotations

import pytest
import torch
from mmengine.optim import OptimWrapper

from pretrain.learner import LocalContrastiveLearner


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
    learner = LocalContrastiveLearner("resnet18", rule, dict(conv_blocks=1), autocast=autocast, channels_last=True)
    wrapper = OptimWrapper(torch.optim.AdamW(learner.parameters(), lr=1e-3))
    logs = [learner.train_step(batch(), wrapper) for _ in range(10)]
    units = ["res5"] if rule == "simclr" else ["res2", "res3", "res4", "res5"]
    assert logs[0].keys() == {"loss", *(f"loss_{u}" for u in units), *(f"accuracy_{u}" for u in units)}
    for unit in units:
        assert logs[-1][f"loss_{unit}"] < 0.5 * logs[0][f"loss_{unit}"], unit


def test_readout_gives_every_stage():
    """Images in, feature maps out, normalised as in training."""
    learner = LocalContrastiveLearner("resnet18", "loco").eval()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    features = learner(images)
    assert {name: tuple(f.shape) for name, f in features.items()} == {
        "res2": (2, 64, 16, 16), "res3": (2, 128, 8, 8), "res4": (2, 256, 4, 4), "res5": (2, 512, 2, 2)
    }
    expected = learner.encoder((images.float() - learner.mean) / learner.std)
    assert torch.equal(features["res5"], expected["res5"])


def test_bad_options_are_refused():
    """Unknown precision, and gradient accumulation, which a contrastive loss does not survive."""
    with pytest.raises(ValueError, match="autocast is 'half'"):
        LocalContrastiveLearner("resnet18", "loco", autocast="half")
    learner = LocalContrastiveLearner("resnet18", "simclr")
    wrapper = OptimWrapper(torch.optim.SGD(learner.parameters(), lr=0.1), accumulative_counts=2)
    with pytest.raises(ValueError, match="without accumulation"):
        learner.train_step(batch(), wrapper)
