"""One training step of any list of local units: one forward pass, and no more backward work than the units need.

The encoder is cut at every unit boundary into segments. Going up, each segment runs once. As soon as the highest unit of a
common *start* has ended, all units with that start share a backward pass: on the way down each adds its head's gradient
where it ends. So a segment sees one backward pass per distinct start among the units that cover it (SimCLR and GIM 1, LoCo
2), however many units there are (units that update only a part of what they reach share one with those that update the
same part). Since gradients are linear in the output's gradient, only one of these passes, over the sum of all units,
computes weight gradients; the others want the gradient to the segment's input alone. A segment's activations are freed
with its last pass; heads run as late as possible, so that nothing of theirs waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretrain.encoders import Encoder
from pretrain.local.recompute import cheap_recompute
from pretrain.local.segments import GradientSource, Segment, check_recompute
from pretrain.local.units import LocalUnit, check_units

UnitLoss = Callable[[Tensor], Tensor]  # projection head and objective: feature map -> scaled loss


@dataclass(frozen=True)
class BackwardPass:
    """Units whose gradients travel down as one sum: they have their start, and the blocks that they update, in common.

    Attributes:
        start: first block that they reach.
        updates: the blocks that they update, None for all that they reach.
        units: their indices.
        reach: one past the highest block among them.
    """

    start: int
    updates: tuple[int, int] | None
    units: tuple[int, ...]
    reach: int

    def covers(self, start: int, end: int) -> bool:
        """Whether the gradient comes through blocks ``[start, end)``."""
        return self.start <= start and end <= self.reach

    def trains(self, start: int, end: int) -> bool:
        """Whether the gradient changes the weights of blocks ``[start, end)``, given that it comes through them."""
        return self.updates is None or (self.updates[0] <= start and end <= self.updates[1])


@dataclass
class _SegmentState:
    """A segment of the encoder during one step, and the gradients that meet there."""

    segment: Segment
    waiting: list[BackwardPass]  # backward passes that have not come yet
    total: Tensor | None = None  # at the output, the sum over the passes that train the segment so far
    sent: Tensor | None = None  # at the input, the sum of what these have handed on so far
    trainer_begins: bool = field(init=False)  # whether a pass that trains the segment ends here

    def __post_init__(self) -> None:
        self.trainer_begins = any(p.start == self.segment.start for p in self.trainers_waiting())

    def trainers_waiting(self) -> list[BackwardPass]:
        return [p for p in self.waiting if p.trains(self.segment.start, self.segment.end)]

    def take(self, backward: BackwardPass, grad: list[Tensor]) -> None:
        """Makes the backward pass, and the one for the weights if no other adds to it any more.

        ``grad`` holds the gradient at the segment's output and is consumed; afterwards it holds the one at the segment's
        input, or nothing where the pass ends here.
        """
        segment = self.segment
        trains = backward in self.trainers_waiting()
        self.waiting.remove(backward)
        goes_on, more_pass = backward.start < segment.start, bool(self.waiting)
        if not trains or self.trainers_waiting():
            if trains:
                self.total = add_up(self.total, grad[0])
            self._hand_on(backward, grad, keep=more_pass)
            if trains and goes_on and not self.trainer_begins:
                self.sent = add_up(self.sent, grad[0].clone() if self.sent is None else grad[0])
        elif self.total is None:
            segment.backward(grad, weights=True, to_input=goes_on, keep=more_pass)
        elif self.trainer_begins:
            self.total = add_up(self.total, grad[0])
            self._hand_on(backward, grad, keep=True)
            segment.backward(self._take_total(), weights=True, to_input=False, keep=more_pass)
        else:  # all go on, so the sum's pass yields the sum at the input, and the others' shares are known
            self.total = add_up(self.total, grad.pop())
            grad.append(self._take_total().pop())
            segment.backward(grad, weights=True, to_input=True, keep=more_pass)
            grad[0] -= self.sent
        if not more_pass:
            segment.release()
            self.total = self.sent = None

    def _hand_on(self, backward: BackwardPass, grad: list[Tensor], keep: bool) -> None:
        if backward.start < self.segment.start:
            self.segment.backward(grad, weights=False, to_input=True, keep=keep)
        else:
            grad.clear()

    def _take_total(self) -> list[Tensor]:
        total, self.total = [self.total], None
        return total


class LocalBackprop:
    """Runs forward and backward of an encoder under a list of local units.

    Args:
        encoder: the encoder to train.
        units: local units, in any order.
        autocast: makes the context in which segments and heads run forward, e.g. ``lambda: torch.autocast("cpu",
            torch.bfloat16)``; backward passes run outside it.
        allow_untrained: whether blocks that no unit updates may stay untrained; where no gradient comes through them they
            run without a graph.
        recompute: what is run forward again in the backward passes to save memory, see
            :data:`pretrain.local.segments.RECOMPUTE`.

    Raises:
        ValueError: the units do not fit the encoder, see :func:`pretrain.local.units.check_units`, or ``recompute`` is
            unknown.
    """

    def __init__(
        self,
        encoder: Encoder,
        units: Sequence[LocalUnit],
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        allow_untrained: bool = False,
        recompute: str = "none",
    ) -> None:
        check_units(units, encoder.num_blocks, allow_untrained)
        check_recompute(recompute)
        self.encoder = encoder
        self.units = list(units)
        self.recompute = recompute
        self._autocast = autocast
        self._ranges = segment_ranges(units)
        self._passes = backward_passes(units)

    def step(self, x: Tensor, objectives: Sequence[UnitLoss]) -> list[Tensor]:
        """Runs one forward pass and accumulates into ``.grad`` of the encoder and of whatever the objectives train.

        Args:
            x: normalised images ``(B, 3, H, W)``; freed with the lowest segment if the caller keeps no reference.
            objectives: one per unit, in the units' order: maps the unit's feature map ``(B, C, h, w)`` to its scalar loss
                (head and loss function together).

        Returns:
            The detached scalar losses, one per unit.

        Raises:
            ValueError: the number of objectives is not the number of units.
        """
        if len(objectives) != len(self.units):
            raise ValueError(f"{len(objectives)} objectives for {len(self.units)} local units; one per unit is needed")
        losses: list[Tensor | None] = [None] * len(self.units)
        states: list[_SegmentState] = []
        for start, end in self._ranges:
            state = self._forward(x, start, end)
            states.append(state)
            x = state.segment.output
            for backward in self._passes:
                if backward.reach == end:
                    self._run_backward(backward, states, objectives, losses)
            if not state.waiting:
                state.segment.release()
        return losses

    def _forward(self, x: Tensor, start: int, end: int) -> _SegmentState:
        covering = [p for p in self._passes if p.covers(start, end)]
        segment = Segment(self.encoder, start, end, self.recompute, self._autocast)
        segment.forward(
            x,
            with_graph=bool(covering),
            input_grad=any(p.start < start for p in covering),
            backward_follows=any(p.reach == end for p in covering),
        )
        return _SegmentState(segment, covering)

    def _run_backward(
        self,
        backward: BackwardPass,
        states: list[_SegmentState],
        objectives: Sequence[UnitLoss],
        losses: list[Tensor | None],
    ) -> None:
        """Carries the gradient of a backward pass's units from its highest segment to its start."""
        grad: list[Tensor] = []  # of the units above, at the current segment's output
        for state in reversed(states):
            if state.segment.start < backward.start:
                break
            for index in backward.units:
                if self.units[index].end == state.segment.end:
                    losses[index] = self._loss_and_gradient(state.segment.output, objectives[index], grad)
            state.take(backward, grad)

    def _loss_and_gradient(self, features: Tensor, objective: UnitLoss, grad: list[Tensor]) -> Tensor:
        """A unit's loss; adds its gradient at the unit's output to ``grad``, and accumulates the head's own gradients."""
        boundary = features.detach().requires_grad_()
        loss = self._loss(boundary, objective)
        roots = [loss]
        if grad:  # one backward pass for both, so that they add up in place
            roots.append(GradientSource.apply(boundary, grad))
        torch.autograd.backward(roots)
        if boundary.grad is None:
            raise ValueError("an objective's loss does not depend on its unit's features, so there is nothing to train; an "
                             "objective maps the features to a scalar loss")
        grad.append(boundary.grad)
        return loss.detach()

    def _loss(self, features: Tensor, objective: UnitLoss) -> Tensor:
        with self._autocast(), cheap_recompute() if self.recompute != "none" else nullcontext():
            return objective(features)


def segment_ranges(units: Sequence[LocalUnit]) -> list[tuple[int, int]]:
    """The encoder's blocks up to the highest unit's end, cut where a unit, or the range that it updates, starts or ends."""
    cuts = sorted({0, *(bound for u in units for bound in (u.start, u.end, *(u.updates or ())))})
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def backward_passes(units: Sequence[LocalUnit]) -> list[BackwardPass]:
    """The units by what they share: a start, and the blocks that they update; in ascending order of their starts."""
    keys = sorted({(u.start, u.updates) for u in units}, key=lambda key: (key[0], key[1] or ()))
    groups = [tuple(i for i, u in enumerate(units) if (u.start, u.updates) == key) for key in keys]
    return [BackwardPass(*key, group, max(units[i].end for i in group)) for key, group in zip(keys, groups, strict=True)]


def add_up(total: Tensor | None, grad: Tensor) -> Tensor:
    """``total + grad``, in place where there is a total already."""
    return grad if total is None else total.add_(grad)
