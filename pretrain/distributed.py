"""The distributed surface of pretraining: everything works unchanged in a single process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherWithGradient(torch.autograd.Function):
    """All-gather along dimension 0 whose backward sums the gradients of all processes."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # (n, ...) -> (world_size * n, ...)
        gathered = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(gathered, x.contiguous())
        ctx.rows = x.shape[0]
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather(x: Tensor) -> Tensor:
    """Concatenates ``x`` of all processes in rank order, differentiably.

    With each process computing the mean loss over its local rows, the backward's sum makes the *average* of all processes'
    parameter gradients equal to the single-process gradient of the global mean loss.

    Args:
        x: ``(n, ...)``, of the same shape in every process.

    Returns:
        ``(world_size * n, ...)``.
    """
    return x if world_size() == 1 else _GatherWithGradient.apply(x)
