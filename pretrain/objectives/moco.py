"""MoCo v2: a queue of the target network's keys as negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import comm
from pretrain.objectives.base import OBJECTIVES, Objective
from pretrain.objectives.global_batch import wide
from pretrain.objectives.ntxent import contrastive_accuracy


@OBJECTIVES.register_module()
class MoCoV2(Objective):
    """InfoNCE of queries against a queue of keys (He et al., 2020, eq. 1 and algorithm 1; Chen et al., 2020b).

    Not symmetric, as published: the encoder sees the first view of every image and makes its query, the target network
    the second and makes its key. Each unit has a queue, which takes the keys of all processes after the loss.

    The paper shuffles images between processes so that batch norm, whose statistics a query and its own key would share,
    does not reveal which key belongs to a query. Here batch norm is synchronised instead, in the encoder and in the target
    network, so that several processes compute what one does: statistics of the whole batch reveal less than those of a
    process's part, but not nothing. On one process with a small batch the objective can be solved in that way.

    Args:
        width: dimension of the projections.
        temperature: tau, > 0; 0.2 in MoCo v2.
        queue_size: number of keys in the queue, at least the global batch.
        momentum: share of itself that the target network keeps at every step.

    Raises:
        ValueError: an option is out of range.
    """

    label = "MoCo v2"
    unit = "nats"
    head = dict(mlp_layers=2, norm="none", out_channels=128)  # hidden width: the features', 2048 of ResNet-50
    views = slice(0, 1)
    target_views = slice(1, 2)
    global_batchnorm = True

    def __init__(
        self, width: int, temperature: float = 0.2, queue_size: int = 65536, momentum: float = 0.999
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature of MoCoV2 is {temperature}; it must be above 0")
        if queue_size < 1:
            raise ValueError(f"queue_size of MoCoV2 is {queue_size}; at least 1 is needed")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum of MoCoV2 is {momentum}; it must lie in [0, 1]")
        self.temperature, self.momentum = temperature, momentum
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, width), dim=1))  # (K, D)
        self.register_buffer("oldest", torch.tensor(0))  # the row of the queue that is replaced next

    def forward(self, projections: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss in nats, and ``accuracy``, the share of queries whose own key is the most similar.

        Args:
            projections: ``(n, D)`` of the first views.
            targets: ``(n, D)`` of the second views, from the target network.

        Raises:
            ValueError: the global batch is larger than the queue.
        """
        with torch.autocast(projections.device.type, enabled=False):
            queries, keys = F.normalize(wide(projections), dim=1), F.normalize(wide(targets), dim=1)  # (n, D)
            own = (queries * keys).sum(dim=1, keepdim=True)  # (n, 1)
            logits = torch.cat([own, queries @ self.queue.T], dim=1) / self.temperature  # (n, 1 + K)
            first = logits.new_zeros(len(logits), dtype=torch.int64)
            loss = F.cross_entropy(logits, first)
        self._enqueue(comm.gather(keys))
        return loss, {"accuracy": contrastive_accuracy(logits, first)}

    def target_momentum(self, step: int, total_steps: int | None) -> float:
        """The constant momentum."""
        return self.momentum

    @torch.no_grad()
    def _enqueue(self, keys: Tensor) -> None:
        """Replaces the oldest keys of the queue; a new tensor, since the backward pass still needs the old one."""
        size = len(self.queue)
        if len(keys) > size:
            raise ValueError(f"queue_size of MoCoV2 is {size}, less than the batch of {len(keys)} images of all processes; "
                             "set model.objective.queue_size to a multiple of the batch")
        rows = (self.oldest + torch.arange(len(keys), device=keys.device)) % size
        self.queue = self.queue.index_copy(0, rows, keys.to(self.queue.dtype))
        self.oldest = (self.oldest + len(keys)) % size
