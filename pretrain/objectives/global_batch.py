"""What objectives compute over the images of all processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import comm


def wide(x: Tensor) -> Tensor:
    """``x`` in float32 or, where it is wider, its own type."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def global_views(name: str, projections: Tensor, at_least: int) -> tuple[Tensor, Tensor]:
    """Both views of the images of all processes, differentiably, see :func:`pretrain.distributed.comm.gather`.

    Args:
        name: of the objective, for messages.
        projections: ``(2n, D)``; two views one after the other.
        at_least: images that the global batch must have.

    Returns:
        Two tensors ``(N, D)`` in one order, float32 or wider.

    Raises:
        ValueError: the number of rows is odd, or the global batch is too small.
    """
    if projections.shape[0] % 2:
        raise ValueError(f"{name} needs two views of every image, got {projections.shape[0]} projections, an odd number")
    views = comm.gather(wide(projections).unflatten(0, (2, -1)).transpose(0, 1))  # (N, 2, D)
    if len(views) < at_least:
        raise ValueError(f"{name} takes statistics over the batch, which {len(views)} images do not have; use a batch of at "
                         f"least {at_least}, of all processes together")
    first, second = views.unbind(1)
    return first, second


def off_diagonal(matrix: Tensor) -> Tensor:
    """The elements ``(D - 1, D)`` of a square matrix ``(D, D)`` that are not on its diagonal."""
    size = len(matrix)
    return matrix.flatten()[1:].view(size - 1, size + 1)[:, :-1]


@torch.no_grad()
def spread(projections: Tensor) -> Tensor:
    """How far apart projections ``(n, D)`` of length 1 lie over the batch of all processes; scalar.

    Their standard deviation, averaged over the dimensions, times the root of ``D``: about 1 where they are spread over the
    sphere, 0 where all have collapsed into one (SimSiam, section 4.1, figure 2).
    """
    z = comm.gather(F.normalize(wide(projections), dim=1))  # (N, D)
    return z.std(dim=0, correction=0).mean() * z.shape[1] ** 0.5
