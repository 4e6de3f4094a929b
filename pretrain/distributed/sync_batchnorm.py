"""Batch norm over the batches of all processes, where torch's SyncBatchNorm does not serve: on CPUs, under recomputation."""

from __future__ import annotations

import torch
import torch.distributed as dist
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm as MMEngineSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.distributed import comm
from pretrain.local.recompute import record_normalisation


class _Normalise(torch.autograd.Function):
    """``(x - mean) / std`` with the statistics of all processes' rows, times weight plus bias.

    Like torch's SyncBatchNorm it returns, for a process's own share of a loss, the gradient at ``x`` of the *sum* over the
    processes, and at weight and bias its own share: averaging parameter gradients over the processes makes both consistent.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_std: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, mean, inverse_std, count)
        scale, shift = weight * inverse_std, bias - mean * weight * inverse_std
        return (x.to(scale.dtype) * _wide(scale, x) + _wide(shift, x)).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        grad_wide, dims = grad.to(weight.dtype), _reduced(x)
        normalised = (x.to(weight.dtype) - _wide(mean, x)) * _wide(inverse_std, x)
        own = torch.stack([grad_wide.sum(dims), (grad_wide * normalised).sum(dims)])  # (2, C)
        total = own.clone()
        dist.all_reduce(total)
        total = total / count.clamp(min=1)
        grad_x = _wide(weight * inverse_std, x) * (grad_wide - _wide(total[0], x) - normalised * _wide(total[1], x))
        return grad_x.to(x.dtype), own[1], own[0], None, None, None


class CrossProcessBatchNorm(_BatchNorm):
    """Batch norm that normalises with the statistics of the global batch; in eval mode or a single process a plain one.

    Gradients and running statistics are those of one process with the whole batch. Made of collectives that gloo has, it
    serves training on several CPU processes, and its output can be made again by ``recompute="norm"``; on CUDA without
    recomputation torch's own SyncBatchNorm, which has fused kernels, is used.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"batch norm needs (N, C, ...), got a tensor of shape {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` -> the same shape."""
        if not self.training or comm.world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        mean, var, count = global_statistics(x.detach().to(self._parameter_type(x)))
        if self.track_running_stats and self.running_mean is not None:
            self._track(mean, var, count)
        weight = self.weight if self.affine else torch.ones_like(mean)
        bias = self.bias if self.affine else torch.zeros_like(mean)
        inverse_std = (var + self.eps).rsqrt()
        out = _Normalise.apply(x, weight, bias, mean, inverse_std, count)
        record_normalisation(out, x, mean, inverse_std, weight, bias, self.eps)
        return out

    def _parameter_type(self, x: Tensor) -> torch.dtype:
        return self.weight.dtype if self.affine else torch.promote_types(x.dtype, torch.float32)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        momentum = momentum * (count > 0).to(mean.dtype)  # without a row anywhere there is nothing to track
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(var * count / (count - 1).clamp(min=1), momentum)


def global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance ``(C,)`` of ``(N, C, ...)`` over all processes, and the number of values a channel (scalar).

    Processes may have different numbers of rows, or none, as a mask head without objects. Variances are put together from
    those about each process's own mean (Chan et al., 1979), which does not cancel as the mean of squares would.
    """
    if x.numel() == 0:
        mean = var = x.new_zeros(x.shape[1])
    else:
        var, mean = torch.var_mean(x, _reduced(x), correction=0)
    count = torch.full_like(mean[:1], x.numel() / x.shape[1])
    packed = torch.cat([mean, var, count])  # (2C + 1,)
    parts = [torch.empty_like(packed) for _ in range(comm.world_size())]
    dist.all_gather(parts, packed)
    stacked = torch.stack(parts)  # (world_size, 2C + 1)
    means, variances, counts = stacked.split([mean.numel(), var.numel(), 1], dim=1)
    total = counts.sum()
    shares = counts / total.clamp(min=1)  # (world_size, 1)
    mean = (shares * means).sum(0)
    var = (shares * (variances + (means - mean).square())).sum(0)
    return mean, var, total


PLAIN_NORMS = (  # these only normalise
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm,
    MMEngineSyncBatchNorm,  # torch's in effect; mmcv builds it for "SyncBN"
    CrossProcessBatchNorm,
)


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces every batch norm by :class:`CrossProcessBatchNorm`, in place; parameters and buffers stay the same objects.

    Raises:
        ValueError: a batch norm is of a class that does more than normalise, such as timm's with an activation inside.
    """
    if isinstance(module, _BatchNorm):
        return _converted(module)
    for name, child in module.named_children():
        module.add_module(name, convert_batchnorm(child))
    return module


def replace_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replaces torch's SyncBatchNorm by :class:`CrossProcessBatchNorm`, in place, and leaves other batch norms alone."""
    if isinstance(module, nn.SyncBatchNorm):
        return _converted(module)
    for name, child in module.named_children():
        module.add_module(name, replace_sync_batchnorm(child))
    return module


def _converted(norm: _BatchNorm) -> CrossProcessBatchNorm:
    if type(norm) not in PLAIN_NORMS:
        raise ValueError(f"batch norm of class {type(norm).__name__} cannot be synchronised by CrossProcessBatchNorm; "
                         "train this encoder in one process, or on CUDA devices with model.recompute=none")
    new = CrossProcessBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        new.register_buffer(name, buffer)
    new.training = norm.training
    return new


def _reduced(x: Tensor) -> list[int]:
    return [d for d in range(x.dim()) if d != 1]


def _wide(channels: Tensor, like: Tensor) -> Tensor:
    return channels.view(1, -1, *[1] * (like.dim() - 2))
