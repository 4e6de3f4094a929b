"""An objective, a head and a learning rule of a user's own, for ``custom_imports``; nothing in the package knows them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.distributed import comm
from pretrain.encoders import Encoder
from pretrain.heads import HEADS
from pretrain.local.units import RULES, LocalUnit, Stages
from pretrain.objectives import OBJECTIVES, Objective


@OBJECTIVES.register_module(force=True)
class LearnedScale(Objective):
    """Pulls the views of an image together on a learned scale: it has a parameter, a buffer (steps) and its own metric."""

    label = "learned scale"
    unit = "squared distance"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, projections: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`pretrain.objectives.Objective`."""
        self.steps += 1
        first, second = F.normalize(projections.to(torch.promote_types(projections.dtype, torch.float32)), dim=1).chunk(2)
        spread = comm.gather(torch.cat([first, second])).var(dim=0).sum()  # over the global batch
        loss = self.weight * ((first - self.scale * second).square().sum(dim=1).mean() - spread)
        return loss, {"spread": spread.detach()}


@HEADS.register_module(force=True)
class MaxPoolHead(nn.Module):
    """The maximum over the positions, and one linear layer."""

    def __init__(self, encoder: Encoder, block: int, width: int = 16) -> None:
        super().__init__()
        self.linear = nn.Linear(encoder.block_channels[block], width)
        self.out_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` -> ``(B, width)``."""
        return self.linear(x.amax(dim=(2, 3)))


def halves(stages: Stages, at: int = 1) -> list[LocalUnit]:
    """Two units, cut after a number of stages."""
    ends = [end for _, end in stages.values()]
    return [LocalUnit(0, ends[at - 1]), LocalUnit(ends[at - 1], ends[-1])]


RULES["halves"] = halves
