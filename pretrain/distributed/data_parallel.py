"""The learner in one of many processes, each with its share of the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from pretrain.distributed.comm import GradientAverager, rank
from pretrain.distributed.sync_batchnorm import convert_batchnorm


@MODEL_WRAPPERS.register_module()
class DataParallelLearner(nn.Module):
    """Makes a learner compute in every process what one process would compute with the whole batch.

    All begin with the first process's weights; batch norm takes its statistics over the global batch, objectives their
    statistics and negatives, and gradients are averaged block by block while the executor goes on. The losses that are
    logged are the global ones.

    Args:
        module: the learner, on its device.
        sync_batchnorm: statistics over the global batch, as the paper's baseline has them; without, each process normalises
            its own rows, and the running statistics that are saved are the first process's.
    """

    def __init__(self, module: nn.Module, sync_batchnorm: bool = True) -> None:
        super().__init__()
        if sync_batchnorm:
            _synchronise_batchnorm(module)
        elif alone := [each.label for each in module.objectives if each.global_batchnorm]:
            raise ValueError(f"{alone[0]} needs sync_batchnorm=True: batch norm over each process's own images reveals "
                             "which key belongs to a query; remove it from model_wrapper_cfg")
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)
        encoder = module.encoder
        blocks = [list(encoder.parameters_of(index, index + 1)) for index in range(encoder.num_blocks)]
        beside = [list(part.parameters()) for part in (*module.heads, *module.objectives)]
        module.gradient_averager = GradientAverager([*blocks, *beside])
        torch.manual_seed(torch.initial_seed() + rank())  # dropout drops something else in every process
        self.module = module

    def train_step(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """See :meth:`~pretrain.learner.LocalContrastiveLearner.train_step`; ``data`` is this process's share."""
        return self.module.train_step(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """See :meth:`~pretrain.learner.LocalContrastiveLearner.forward`."""
        return self.module(*args, **kwargs)


def _synchronise_batchnorm(learner: nn.Module) -> None:
    if next(learner.parameters()).is_cuda and learner.recompute == "none":  # torch's own cannot be recomputed
        for part in filter(None, (learner, learner.target)):
            part.encoder.convert_sync_batchnorm()
            nn.SyncBatchNorm.convert_sync_batchnorm(part.heads)
        nn.SyncBatchNorm.convert_sync_batchnorm(learner.objectives)
    else:
        convert_batchnorm(learner)
