"""The target network of BYOL and MoCo: a momentum average of the encoder and of all units' heads."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.encoders import Encoder
from pretrain.local.units import LocalUnit


class TargetNetwork(nn.Module):
    """One copy of the encoder and of the heads, whatever the number of units, that follows them slowly and has no gradient.

    Batch norm works as in the encoder, with running statistics of its own (only parameters are averaged).

    Args:
        encoder: the encoder that is trained.
        heads: one head per unit.
        units: the units, in the order of the heads.

    Attributes:
        step: how often :meth:`follow` was called; in the state dict as ``steps``.
    """

    def __init__(self, encoder: Encoder, heads: nn.ModuleList, units: Sequence[LocalUnit]) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.heads = copy.deepcopy(heads).requires_grad_(False)
        self.ends = [unit.end for unit in units]
        self.register_buffer("steps", torch.tensor(0))
        self.step = 0  # the same on the CPU, so that nobody waits for the device

    @torch.no_grad()
    def follow(self, encoder: Encoder, heads: nn.ModuleList, momentum: float) -> None:
        """Keeps ``momentum`` (0 to 1) of every parameter and takes the rest from the trained network.

        The first call copies everything.
        """
        online, own = ([*part.parameters(), *parts.parameters()]
                       for part, parts in ((encoder, heads), (self.encoder, self.heads)))
        torch._foreach_lerp_(own, online, 1 - momentum if self.step else 1.0)
        self.step += 1
        self.steps.fill_(self.step)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Projections ``(B, D)`` of normalised images ``(B, 3, H, W)`` for every unit, from one forward pass."""
        projections, done = {}, 0
        for index in sorted(range(len(self.ends)), key=self.ends.__getitem__):
            images = self.encoder.run(images, done, self.ends[index])
            projections[index], done = self.heads[index](images), self.ends[index]
        return [projections[index] for index in range(len(self.ends))]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.step = int(self.steps)
