"""Barlow Twins: the cross-correlation of two views shall be the identity."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.objectives.base import OBJECTIVES, Objective
from pretrain.objectives.global_batch import global_views, off_diagonal

EPS = 1e-5  # added to variances, as by the batch norm of the official code


@OBJECTIVES.register_module()
class BarlowTwins(Objective):
    """Redundancy reduction (Zbontar et al., 2021, eq. 1 and 2), over the batch of all processes, in float32 or wider.

    The projections of each view are standardised over the batch; ``C`` is their cross-correlation. The loss is
    ``sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2``.

    Args:
        redundancy: lambda, the weight of what is off the diagonal; 0.0051 in the official code.

    Raises:
        ValueError: ``redundancy`` is negative.
    """

    label = "Barlow Twins"
    head = dict(mlp_layers=3, hidden_channels=8192, out_channels=8192)  # section 2.2

    def __init__(self, redundancy: float = 0.0051) -> None:
        super().__init__()
        if not redundancy >= 0:
            raise ValueError(f"redundancy of BarlowTwins is {redundancy}; it must be at least 0")
        self.redundancy = redundancy

    def forward(self, projections: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the global batch, and ``correlation``, the mean of the diagonal (-1 to 1).

        Raises:
            ValueError: the number of rows is odd, or the global batch has fewer than 3 images: standardised over two,
                every value is 1 or -1, whatever the network does.
        """
        with torch.autocast(projections.device.type, enabled=False):
            first, second = map(_standardised, global_views("Barlow Twins", projections, at_least=3))  # (N, D) each
            correlation = first.T @ second / len(first)  # (D, D)
            diagonal = correlation.diagonal()
            loss = (1 - diagonal).square().sum() + self.redundancy * off_diagonal(correlation).square().sum()
        return loss, {"correlation": diagonal.detach().mean()}


def _standardised(z: Tensor) -> Tensor:
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * (variance + EPS).rsqrt()
