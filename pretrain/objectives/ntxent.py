"""NT-Xent over the global batch, with or without subsampling of pairs by similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.distributed import comm
from pretrain.objectives.base import OBJECTIVES, Objective

SUBSAMPLED = ("both", "positives", "negatives")
AVERAGED_OVER = ("all", "kept")


@OBJECTIVES.register_module()
class NTXent(Objective):
    """Normalised temperature-scaled cross entropy, SimCLR's form of InfoNCE (LoCo, section 3.1, eq. 1).

    Each of the ``2N`` projections of the global batch picks its other view among all others: ``2N - 2`` negatives, itself
    excluded. Computed in float32 (or wider) whatever the autocast.

    With a threshold T, pairs whose cosine similarity is below it are left out (Subsampling, section 3.3, eq. 4 and 5): a
    pair ``{i, l}`` is kept where ``sim(z_i, z_l) >= T``. The loss of a positive pair that is dropped counts as 0, and a
    negative that is dropped is missing from the row's denominator. A positive whose loss counts stays in its own
    denominator, also with ``on="negatives"``, where eq. 5 read to the letter would take it out below the threshold: then its
    loss would not be a cross entropy any more, nor bounded from below. No gradient flows through the choice of pairs. Where
    no positive is kept, the loss is 0 and so is its gradient; where a row keeps no negative, so is its share of both.

    Args:
        temperature: tau, > 0.
        threshold: T, -1 to 1; None keeps all pairs.
        on: which pairs are dropped below the threshold: ``"positives"``, ``"negatives"``, or ``"both"`` as in eq. 5.
        average_over: ``"all"`` divides the sum over the rows of the global batch by their number, a dropped pair being a
            loss of 0 as eq. 5 has it (the paper names no other divisor); ``"kept"`` by the number of those whose positive is
            kept, so that the loss is not the smaller for having fewer terms.

    Raises:
        ValueError: the temperature is not positive, the threshold is outside [-1, 1], or an option is unknown.
    """

    label = "NT-Xent"
    unit = "nats"

    def __init__(
        self, temperature: float = 0.1, threshold: float | None = None, on: str = "both", average_over: str = "all"
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if threshold is not None and not (is_number and -1 <= threshold <= 1):
            raise ValueError(f"threshold of NTXent is {threshold!r}; cosine similarities need a number from -1 to 1, or "
                             "None to keep all pairs")
        if on not in SUBSAMPLED:
            raise ValueError(f"subsampling on {on!r} is unknown; choose of {', '.join(SUBSAMPLED)}")
        if average_over not in AVERAGED_OVER:
            raise ValueError(f"average_over of NTXent is {average_over!r}; choose of {', '.join(AVERAGED_OVER)}")
        self.temperature = temperature
        self.threshold = threshold
        self.on = on
        self.average_over = average_over

    def forward(self, projections: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, contrastive accuracy and, with a threshold, kept shares of this process's rows.

        Args:
            projections: ``(2n, D)``, the first views of ``n`` images and then their second views in the same order.

        Returns:
            The loss (scalar, in nats), whose mean over the processes is that of the global batch, as is its gradient's; and
            detached scalars (0 to 1) by name: ``accuracy``, the share of rows whose other view is the most similar of all,
            and with a threshold the shares of the local rows' pairs that are kept, ``kept_positive`` of ``2n`` and
            ``kept_negative`` of ``2n (2N - 2)``. A share is 1 where ``on`` leaves such pairs alone.

        Raises:
            ValueError: the number of rows is odd, or there is only one image in the global batch.
        """
        similarity, own, targets = cosine_similarities(projections)  # (2n, 2N), (2n,), (2n,)
        with torch.autocast(similarity.device.type, enabled=False):
            logits = similarity / self.temperature  # (2n, 2N)
            metrics = {"accuracy": contrastive_accuracy(logits, targets)}
            if self.threshold is None:
                return F.cross_entropy(logits, targets), metrics
            rows, columns = similarity.shape
            # "below" and not "above", so that NaN is kept and shows; rounding may leave opposite rows below -1
            below = similarity.detach().clamp(min=-1) < self.threshold  # (2n, 2N)
            dropped_positives = below.gather(1, targets[:, None])[:, 0] & (self.on != "negatives")  # (2n,)
            not_negative = torch.stack([own, targets], dim=1)  # (2n, 2)
            dropped_negatives = below.scatter(1, not_negative, False) & (self.on != "positives")  # (2n, 2N)
            kept_logits = logits.masked_fill(dropped_negatives, float("-inf"))  # (2n, 2N), own positives always among them
            losses = F.cross_entropy(kept_logits, targets, reduction="none")  # (2n,)
            kept = (~dropped_positives).to(losses.dtype)  # (2n,)
            loss = (losses * kept).sum() / self._divisor(kept)
            kept_negative = 1 - dropped_negatives.sum().to(losses.dtype) / (rows * (columns - 2))
        return loss, {**metrics, "kept_positive": kept.mean(), "kept_negative": kept_negative}

    def _divisor(self, kept: Tensor) -> Tensor | int:
        """What the sum over the local rows is divided by: a mean over the processes, for their losses are averaged, too."""
        if self.average_over == "all":
            return len(kept)
        one_of_all = 1 / comm.world_size()
        return comm.average(kept.sum()).clamp(min=one_of_all)  # where none is kept, the sum is 0 anyway


def contrastive_accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """The share (0 to 1, detached) of rows ``(2n, 2N)`` whose target ``(2n,)`` has the greatest logit."""
    return (logits.detach().argmax(dim=1) == targets).float().mean()


def cosine_similarities(projections: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine similarities of the local rows to the global batch, and the columns of each row itself and of its positive.

    Args:
        projections: ``(2n, D)``; two views one after the other.

    Returns:
        Similarities ``(2n, 2N)`` with ``N = n * world_size``, float32 or wider, minus infinity at each row's own column; own
        columns ``(2n,)``; positives' columns ``(2n,)``.

    Raises:
        ValueError: the number of rows is odd, or there is only one image in the global batch.
    """
    rows = projections.shape[0]
    if rows % 2:
        raise ValueError(f"NT-Xent needs two views of every image, got {rows} projections, an odd number")
    if rows * comm.world_size() < 4:
        raise ValueError("NT-Xent over a single image has no negatives; use a batch of at least 2 images")
    with torch.autocast(projections.device.type, enabled=False):
        wide = torch.promote_types(projections.dtype, torch.float32)
        z = F.normalize(projections.to(wide), dim=1)  # (2n, D)
        similarity = z @ comm.gather(z).T  # (2n, 2N), column r * 2n + i for row i of rank r
        first = comm.rank() * rows
        own = torch.arange(first, first + rows, device=z.device)  # (2n,)
        is_self = F.one_hot(own, similarity.shape[1]).bool()
        similarity = similarity.masked_fill(is_self, float("-inf"))
    return similarity, own, own.roll(rows // 2)
