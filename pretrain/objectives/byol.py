"""BYOL: predict what a slowly moving average of oneself sees in the other view."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.heads import mlp
from pretrain.objectives.base import OBJECTIVES, Objective
from pretrain.objectives.global_batch import spread, wide


@OBJECTIVES.register_module()
class BYOL(Objective):
    """Bootstrap your own latent (Grill et al., 2020, section 3.1, eq. 2).

    The loss is ``2 - 2 cos(q(z1), t2)`` plus the same with the views exchanged, where ``q`` is the predictor and ``t`` are
    the projections of the target network.

    Args:
        width: dimension of the projections.
        hidden_channels: hidden width of the predictor, a two-layer MLP with batch norm in between (section 3.3).
        momentum: tau at the beginning; it rises to 1 at the end of training by half a cosine (section 3.3).

    Raises:
        ValueError: the momentum is not in [0, 1].
    """

    label = "BYOL"
    head = dict(mlp_layers=2, hidden_channels=4096, out_channels=256)  # section 3.3
    target_views = slice(0, 2)

    def __init__(self, width: int, hidden_channels: int = 4096, momentum: float = 0.996) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum of BYOL is {momentum}; it must lie in [0, 1]")
        self.momentum = momentum
        self.predictor = mlp([width, hidden_channels, width])

    def forward(self, projections: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (0 to 8), and ``spread`` of the targets, see :func:`pretrain.objectives.global_batch.spread`."""
        predictions = self.predictor(projections)  # (2n, D)
        others = targets.roll(len(targets) // 2, dims=0)  # (2n, D)
        with torch.autocast(projections.device.type, enabled=False):
            loss = 2 * (2 - 2 * F.cosine_similarity(wide(predictions), wide(others), dim=1)).mean()
        return loss, {"spread": spread(targets)}

    def target_momentum(self, step: int, total_steps: int | None) -> float:
        """``1 - (1 - momentum) (cos(pi step / total_steps) + 1) / 2``, and 1 beyond the last step.

        Raises:
            ValueError: the number of steps is not known.
        """
        if total_steps is None:
            raise ValueError("the momentum of BYOL rises until training ends: set the learner's total_steps to the "
                             "number of its steps, as tools/pretrain.py does")
        return 1 - (1 - self.momentum) * (math.cos(math.pi * min(1, step / total_steps)) + 1) / 2
