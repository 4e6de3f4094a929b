"""The contrastive objective: NT-Xent over the global batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain import distributed


class NTXentLoss(nn.Module):
    """Normalised temperature-scaled cross entropy, SimCLR's form of InfoNCE (LoCo, section 3.1, eq. 1).

    Each of the ``2N`` projections of the global batch picks its other view among all others: ``2N - 2`` negatives, itself
    excluded. Computed in float32 (or wider) whatever the autocast.

    Args:
        temperature: tau, > 0.

    Raises:
        ValueError: the temperature is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        self.temperature = temperature

    def forward(self, projections: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and contrastive accuracy of this process's rows.

        Args:
            projections: ``(2n, D)``, the first views of ``n`` images and then their second views in the same order.

        Returns:
            The mean loss over the local rows (scalar, in nats), and the share (0 to 1, detached) of rows whose other view
            is the most similar of all.

        Raises:
            ValueError: the number of rows is odd, or there is only one image in the global batch.
        """
        logits, targets = nt_xent_logits(projections, self.temperature)
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.cross_entropy(logits, targets)
        return loss, (logits.detach().argmax(dim=1) == targets).float().mean()


def nt_xent_logits(projections: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosine similarities over temperature of the local rows to the global batch, and the column of each row's positive.

    Args:
        projections: ``(2n, D)``; two views one after the other.
        temperature: tau.

    Returns:
        Logits ``(2n, 2N)`` with ``N = n * world_size``, minus infinity at each row's own column; targets ``(2n,)``.
    """
    rows = projections.shape[0]
    if rows % 2:
        raise ValueError(f"NT-Xent needs two views of every image, got {rows} projections, an odd number")
    if rows * distributed.world_size() < 4:
        raise ValueError("NT-Xent over a single image has no negatives; use a batch of at least 2 images")
    with torch.autocast(projections.device.type, enabled=False):
        wide = torch.promote_types(projections.dtype, torch.float32)
        z = F.normalize(projections.to(wide), dim=1)  # (2n, D)
        logits = z @ distributed.gather(z).T / temperature  # (2n, 2N), column r * 2n + i for row i of rank r
        first = distributed.rank() * rows
        own = torch.arange(first, first + rows, device=z.device)  # (2n,)
        is_self = F.one_hot(own, logits.shape[1]).bool()
        logits = logits.masked_fill(is_self, float("-inf"))
    return logits, own.roll(rows // 2)
