"""Top-1 and top-5 accuracy over batches and processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pretrain.distributed import comm


class AccuracyCounter:
    """Counts, by stage, how often the label is the highest score and among the five highest.

    Args:
        stages: names of the stages.
        num_classes: the number of classes.
        device: of scores and labels.
    """

    def __init__(self, stages: Sequence[str], num_classes: int, device: torch.device) -> None:
        self._stages, self._num_classes = tuple(stages), num_classes
        self._correct = torch.zeros(len(self._stages), 2, dtype=torch.int64, device=device)
        self._total = torch.zeros(1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, scores: Mapping[str, Tensor], labels: Tensor) -> None:
        """Counts one batch.

        Args:
            scores: ``{stage: (B, C)}``.
            labels: ``(B,)``; negative ones are of images that do not count.
        """
        counted = labels >= 0
        self._total += counted.sum()
        for row, name in enumerate(self._stages):
            ranked = scores[name].topk(min(5, self._num_classes), dim=1).indices  # (B, 5)
            hits = (ranked == labels[:, None]) & counted[:, None]  # (B, 5)
            self._correct[row] += torch.stack([hits[:, 0].sum(), hits.sum()])

    def percentages(self) -> dict[str, tuple[float, float | None]]:
        """``{stage: (top-1, top-5)}`` in percent over all processes; top-5 is None where it would always be 100.

        To be called once, by all processes.
        """
        counts = torch.cat([self._correct.flatten(), self._total])  # (2 * stages + 1,)
        *correct, total = comm.sum_over_ranks(counts).tolist()
        shares = [100 * count / max(total, 1) for count in correct]
        return {
            name: (shares[2 * row], shares[2 * row + 1] if self._num_classes > 5 else None)
            for row, name in enumerate(self._stages)
        }
