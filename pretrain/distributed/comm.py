"""The distributed surface of pretraining: everything works unchanged in a single process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
LAUNCHERS = ("none", "pytorch", "slurm")
_patient_group: dist.ProcessGroup | None = None  # for what may take hours, such as the first look at a large data set


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def find_launcher() -> str:
    """``"pytorch"`` under torchrun, otherwise ``"none"``. SLURM must be asked for: any shell of a job has its variables."""
    return "pytorch" if {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys() else "none"


def start_processes(launcher: str) -> None:
    """Joins the process group of a launcher: nccl where there is CUDA, gloo on CPUs; ``"none"`` does nothing.

    Raises:
        ValueError: the launcher is unknown, its environment variables are lacking, or SLURM's is asked for without CUDA.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"unknown launcher {launcher!r}; known are {', '.join(LAUNCHERS)}")
    if launcher == "none" or dist.is_initialized():
        return
    needed = {"pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"), "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST")}
    lacking = [name for name in needed[launcher] if name not in os.environ]
    if lacking:
        start = "torchrun --nproc-per-node N tools/pretrain.py ..." if launcher == "pytorch" else "srun"
        raise ValueError(f"launcher {launcher!r} needs the environment variable {lacking[0]}; start the tool with {start}")
    if torch.cuda.is_available():
        from mmengine.dist import init_dist  # which only CUDA needs

        init_dist(launcher, backend="nccl")
    elif launcher == "slurm":
        raise ValueError("launcher 'slurm' needs a CUDA device in every task; on CPUs start the tool with torchrun")
    else:
        dist.init_process_group("gloo")
    global _patient_group
    _patient_group = dist.new_group(backend="gloo", timeout=timedelta(days=1))


def stop_processes() -> None:
    """Leaves the process group, where there is one."""
    global _patient_group
    _patient_group = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def main_process_first() -> Iterator[None]:
    """The others enter when the first process has left: what it made on disk is there, however long it took.

    Raises:
        ValueError: in the others, what the first process raised.
    """
    if world_size() == 1:
        yield
        return
    failure: list[str | None] = [None]
    if rank() > 0:
        dist.broadcast_object_list(failure, src=0, group=_patient_group)
        if failure[0] is not None:
            raise ValueError(failure[0])
        yield
        return
    try:
        yield
    except Exception as error:
        failure[0] = str(error)
        raise
    finally:
        dist.broadcast_object_list(failure, src=0, group=_patient_group)


def broadcast_from_rank0(compute: Callable[[], T]) -> T:
    """What ``compute`` returns in the first process, in all of them; it must be picklable. The others wait, however long.

    Raises:
        ValueError: in the others, what the first process raised.
    """
    result: list[T | None] = [None]
    with main_process_first():
        if rank() == 0:
            result[0] = compute()
    if world_size() > 1:
        dist.broadcast_object_list(result, src=0, group=_patient_group)
    return result[0]


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum of ``x`` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def max_over_ranks(x: Tensor) -> Tensor:
    """Elementwise maximum of ``x``, a tensor on the CPU, over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x, dist.ReduceOp.MAX, group=_patient_group)
    return x


def gather_objects(x: T) -> list[T]:
    """``x`` of every process, in rank order."""
    found: list[T | None] = [None] * world_size()
    if world_size() == 1:
        return [x]
    dist.all_gather_object(found, x, group=_patient_group)
    return found


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier(group=_patient_group)


def gather_in_turn(own: Tensor, total: int) -> Tensor:
    """Rows that were dealt to the processes in turn, in their order again: ``(n, ...)`` -> ``(total, ...)``."""
    processes = world_size()
    if processes == 1:
        return own
    longest = -(-total // processes)
    padded = own.new_zeros(longest, *own.shape[1:])
    padded[: len(own)] = own
    shards = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(shards, padded)
    return torch.stack(shards, dim=1).flatten(0, 1)[:total]  # (longest, processes, ...) -> (total, ...)


def average(x: Tensor) -> Tensor:
    """The mean of a detached tensor over the processes."""
    if world_size() == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x / world_size()


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


class GradientAverager:
    """Averages gradients over all processes, group by group, while the backward pass goes on below.

    Torch's DistributedDataParallel takes every parameter's gradient through one backward pass, which local units do not
    have. Here a group (a block of the encoder, a head) is sent off as soon as the last of its gradients is accumulated;
    the executor accumulates each once per step. All processes must send in one order: the first step's order, in which the
    first process got its groups ready, is kept by all of them.

    Args:
        groups: parameters that are sent together; a parameter belongs to one group.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        self._groups = [[p for p in group if p.requires_grad] for group in groups]
        self._order: list[int] | None = None  # of the groups; unknown until a step has been made
        self._became_ready: list[int] = []  # in this step
        self._arrived = [0] * len(self._groups)
        self._sent: list[tuple[list[Tensor], Tensor, dist.Work]] = []
        self._next = 0  # position in the order
        for index, group in enumerate(self._groups):
            for parameter in group:
                parameter.register_post_accumulate_grad_hook(lambda _, index=index: self._arrive(index))

    def forget_order(self) -> None:
        """To be called in all processes when other units are trained from now on."""
        self._order = None

    def finish(self) -> None:
        """Sends what has not been sent, waits, and puts the averages into ``.grad``. Called once per step."""
        if self._order is None:
            self._order = self._agree_on_order()
        for index in self._order[self._next :]:
            self._send(index)
        for grads, bucket, work in self._sent:
            work.wait()
            bucket /= world_size()
            parts = bucket.split([grad.numel() for grad in grads])
            torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
        self._sent.clear()
        self._became_ready.clear()
        self._arrived = [0] * len(self._groups)
        self._next = 0

    def _arrive(self, index: int) -> None:
        self._arrived[index] += 1
        if self._arrived[index] < len(self._groups[index]):
            return
        self._became_ready.append(index)
        while self._order is not None and self._next < len(self._order) and self._order[self._next] in self._became_ready:
            self._send(self._order[self._next])
            self._next += 1

    def _send(self, index: int) -> None:
        grads = [p.grad for p in self._groups[index] if p.grad is not None]  # none where the group is not trained now
        if grads:
            bucket = torch.cat([grad.reshape(-1) for grad in grads])
            self._sent.append((grads, bucket, dist.all_reduce(bucket, async_op=True)))

    def _agree_on_order(self) -> list[int]:
        """The first process's: groups as they became ready, then the others."""
        mine = [*self._became_ready, *(i for i in range(len(self._groups)) if i not in self._became_ready)]
        device = self._groups[0][0].device
        order = torch.tensor(mine, device=device)
        dist.broadcast(order, src=0)
        return order.tolist()
