"""VICReg: views alike, dimensions spread out and uncorrelated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.objectives.base import OBJECTIVES, Objective
from pretrain.objectives.global_batch import global_views, off_diagonal, wide

EPS = 1e-4  # added to variances


@OBJECTIVES.register_module()
class VICReg(Objective):
    """Variance, invariance and covariance (Bardes et al., 2022, section 4), over the batch of all processes.

    The terms are scaled as in the authors' code, for which the published weights hold: the invariance is a mean over the
    dimensions, too (eq. 5 has their sum), and the variance term is the mean of the two views' (eq. 6 has the sum).

    Args:
        invariance: weight of the mean squared distance of the views.
        variance: weight of the hinge at 1 on every dimension's standard deviation.
        covariance: weight of the squared covariances between dimensions, divided by their number.

    Raises:
        ValueError: a weight is negative.
    """

    label = "VICReg"
    head = dict(mlp_layers=3, hidden_channels=8192, out_channels=8192)  # the paper's expander

    def __init__(self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        weights = dict(invariance=invariance, variance=variance, covariance=covariance)
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name} of VICReg is {weight}; it must be at least 0")
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def forward(self, projections: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and ``std``, the mean standard deviation of the dimensions.

        Raises:
            ValueError: the number of rows is odd, or the global batch is of one image.
        """
        with torch.autocast(projections.device.type, enabled=False):
            views = global_views("VICReg", projections, at_least=2)
            alike = F.mse_loss(*wide(projections).chunk(2))  # of the local rows; the mean over processes is the global one
            hinge, covariances, deviations = 0.0, 0.0, []
            for z in views:
                z = z - z.mean(dim=0)  # (N, D)
                covariance = z.T @ z / (len(z) - 1)  # (D, D)
                deviation = (covariance.diagonal() + EPS).sqrt()  # (D,)
                hinge = hinge + F.relu(1 - deviation).mean() / 2
                covariances = covariances + off_diagonal(covariance).square().sum() / z.shape[1]
                deviations.append(deviation.detach().mean())
            loss = self.invariance * alike + self.variance * hinge + self.covariance * covariances
        return loss, {"std": sum(deviations) / 2}
