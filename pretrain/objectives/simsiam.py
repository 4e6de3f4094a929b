"""SimSiam: a predictor and a stop-gradient, nothing else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.heads import mlp
from pretrain.objectives.base import OBJECTIVES, Objective
from pretrain.objectives.global_batch import spread, wide


@OBJECTIVES.register_module()
class SimSiam(Objective):
    """Each view's prediction of the other view's projection (Chen and He, 2021, eq. 1 to 4).

    Batch norm at the end of the head has a weight and a bias, which the official code leaves out there.

    The loss is ``-(cos(p1, stopgrad(z2)) + cos(p2, stopgrad(z1))) / 2``, -1 at its best.

    Args:
        width: dimension of the projections.
        hidden_channels: hidden width of the predictor, a two-layer MLP with batch norm in between (section 3).
    """

    label = "SimSiam"
    head = dict(mlp_layers=3, hidden_channels=2048, out_channels=2048, norm="all")  # section 3, "Projection MLP"

    def __init__(self, width: int, hidden_channels: int = 512) -> None:
        super().__init__()
        self.predictor = mlp([width, hidden_channels, width])

    def forward(self, projections: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and ``spread`` of the projections, see :func:`pretrain.objectives.global_batch.spread`."""
        predictions = self.predictor(projections)  # (2n, D)
        others = projections.detach().roll(len(projections) // 2, dims=0)  # (2n, D)
        with torch.autocast(projections.device.type, enabled=False):
            loss = -F.cosine_similarity(wide(predictions), wide(others), dim=1).mean()
        return loss, {"spread": spread(projections)}
