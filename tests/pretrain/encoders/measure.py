"""What tests count in a network, from the shapes alone (meta tensors)."""

from __future__ import annotations

import torch
from torch import nn

from pretrain.encoders import Encoder, build_encoder


def build_on_meta(spec) -> Encoder:
    """An encoder without memory for its weights."""
    with torch.device("meta"):
        return build_encoder(spec).eval()


def stage_macs(encoder: Encoder, size: int) -> dict[str, int]:
    """Multiply-adds of the convolutions in every stage, for one image of ``size`` px."""
    macs = dict.fromkeys(encoder.stages, 0)
    stage = ""

    def count(conv: nn.Conv2d, _inputs, output: torch.Tensor) -> None:
        macs[stage] += output.numel() * conv.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    x = torch.empty(1, 3, size, size, device="meta")
    for name, (start, end) in encoder.stages.items():
        stage = name
        x = encoder.run(x, start, end)
    for hook in hooks:
        hook.remove()
    return macs


def shares(values: dict[str, int]) -> list[float]:
    """Percentages of the total."""
    return [100 * value / sum(values.values()) for value in values.values()]
