"""One training step of any list of local units: one forward pass, and no more backward work than the units need.

The encoder is cut at every unit boundary into segments. Going up, each segment runs once; where units end, their decoders
run on the detached output and give the gradient there. All units with the same start descend together, as soon as the
highest of them has ended. So a segment sees one backward pass per distinct *start* among the units that cover it (SimCLR
and GIM 1, LoCo 2), however many units there are; and since gradients are linear in the output's gradient, only the last of
these passes, over the sum of all units, computes weight gradients. The others want the gradient to the segment's input
alone. A segment's activations are freed with its last pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretrain.encoders import Encoder
from pretrain.local_units import LocalUnit, check_units

Objective = Callable[[Tensor], Tensor]


@dataclass
class _Segment:
    """Blocks ``[start, end)`` between two neighbouring unit boundaries, and what one step keeps of them."""

    start: int
    end: int
    unit_starts: tuple[int, ...]  # distinct starts of the units that cover it, ascending
    input: Tensor | None = None  # detached leaf, (B, C, H, W)
    output: Tensor | None = None  # with the segment's graph, (B, C', H', W')
    output_grads: dict[int, Tensor] = field(default_factory=dict)  # unit start -> gradient at the output
    waiting: set[int] = field(default_factory=set)  # unit starts whose pass has not come yet
    sent: Tensor | None = None  # sum of the gradients handed to the segment below so far

    def add_output_grad(self, unit_start: int, grad: Tensor) -> None:
        known = self.output_grads.get(unit_start)
        self.output_grads[unit_start] = grad if known is None else known + grad

    def release(self) -> None:
        self.input = self.output = self.sent = None
        self.output_grads.clear()


class LocalBackprop:
    """Runs forward and backward of an encoder under a list of local units.

    Args:
        encoder: the encoder to train.
        units: local units, in any order.
        autocast: makes the context in which segments and decoders run forward, e.g. ``lambda: torch.autocast("cpu",
            torch.bfloat16)``; backward passes run outside it.
        allow_untrained: whether blocks that no unit reaches may stay untrained; they run without a graph.

    Raises:
        ValueError: the units do not fit the encoder, see :func:`pretrain.local_units.check_units`.
    """

    def __init__(
        self,
        encoder: Encoder,
        units: Sequence[LocalUnit],
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        allow_untrained: bool = False,
    ) -> None:
        check_units(units, encoder.num_blocks, allow_untrained)
        self.encoder = encoder
        self.units = list(units)
        self._autocast = autocast
        self._reach = {unit.start: max(u.end for u in units if u.start == unit.start) for unit in units}
        self._ranges = segment_ranges(units)

    def step(self, x: Tensor, objectives: Sequence[Objective]) -> list[Tensor]:
        """Runs one forward pass and accumulates into ``.grad`` of the encoder and of whatever the objectives train.

        Args:
            x: normalised images ``(B, 3, H, W)``.
            objectives: one a unit, in the units' order: maps the unit's feature map ``(B, C, h, w)`` to its scalar loss
                (decoder and loss function together).

        Returns:
            The detached scalar losses, one a unit.

        Raises:
            ValueError: the number of objectives is not the number of units.
        """
        if len(objectives) != len(self.units):
            raise ValueError(f"{len(objectives)} objectives for {len(self.units)} local units; one a unit is needed")
        losses: list[Tensor | None] = [None] * len(self.units)
        segments: list[_Segment] = []
        for start, end in self._ranges:
            segment = self._forward(x, start, end)
            segments.append(segment)
            for index, unit in enumerate(self.units):
                if unit.end == end:
                    losses[index], grad = self._decode(segment.output, objectives[index])
                    segment.add_output_grad(unit.start, grad)
            x = segment.output.detach()
            for unit_start in sorted(s for s, reach in self._reach.items() if reach == end):
                _descend(segments, unit_start, self.encoder)
            if not segment.unit_starts:
                segment.release()
        return losses

    def _forward(self, x: Tensor, start: int, end: int) -> _Segment:
        unit_starts = tuple(sorted({u.start for u in self.units if u.start <= start and u.end >= end}))
        segment = _Segment(start, end, unit_starts, waiting=set(unit_starts))
        passes_down = any(unit_start < start for unit_start in unit_starts)
        segment.input = x.detach().requires_grad_(passes_down)
        with torch.set_grad_enabled(bool(unit_starts)), self._autocast():
            segment.output = self.encoder.run(segment.input, start, end)
        return segment

    def _decode(self, output: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """A unit's loss, and its gradient at the unit's output; the decoder's own gradients are accumulated on the way."""
        boundary = output.detach().requires_grad_()
        with self._autocast():
            loss = objective(boundary)
        loss.backward()
        return loss.detach(), boundary.grad


def segment_ranges(units: Sequence[LocalUnit]) -> list[tuple[int, int]]:
    """The encoder's blocks up to the highest unit's end, cut at every unit's start and end."""
    cuts = sorted({0, *(u.start for u in units), *(u.end for u in units)})
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def _descend(segments: list[_Segment], unit_start: int, encoder: Encoder) -> None:
    """Carries the gradient of all units that start at ``unit_start`` from the topmost segment that it covers down to it."""
    for position in range(len(segments) - 1, -1, -1):
        segment = segments[position]
        if segment.start < unit_start:
            break
        segment.waiting.discard(unit_start)
        if segment.waiting:
            grad = _input_pass(segment, unit_start)
        else:
            grad = _last_pass(segment, unit_start, encoder)
            segment.release()
        if grad is not None:
            segments[position - 1].add_output_grad(unit_start, grad)


def _input_pass(segment: _Segment, unit_start: int) -> Tensor | None:
    """Gradient of one start's units to the segment's input; None where these units begin in this segment."""
    if unit_start == segment.start:
        return None
    (grad,) = torch.autograd.grad(
        segment.output, segment.input, segment.output_grads[unit_start], retain_graph=True
    )
    segment.sent = grad if segment.sent is None else segment.sent + grad
    return grad


def _last_pass(segment: _Segment, unit_start: int, encoder: Encoder) -> Tensor | None:
    """Weight gradients over the sum of all units, and the input gradient that the last start still needs.

    Where every unit that covers the segment goes on below it, the pass over the sum yields the input's gradient of the sum
    as well, and the last start's share is what the others have not sent yet. Where some unit begins here, that share would
    be in the sum too, so the last start's is computed apart (the beginning unit has cost no pass so far).
    """
    begins_here = segment.start in segment.unit_starts
    grad = None
    if begins_here:
        grad = _input_pass(segment, unit_start)
    total = sum_tensors(segment.output_grads.values())
    parameters = [p for p in encoder.parameters_of(segment.start, segment.end) if p.requires_grad]
    if begins_here:
        if parameters:
            torch.autograd.backward(segment.output, total, inputs=parameters)
        return grad
    torch.autograd.backward(segment.output, total, inputs=[segment.input, *parameters])
    return segment.input.grad if segment.sent is None else segment.input.grad - segment.sent


def sum_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of equally shaped tensors; a single one is returned as it is."""
    first, *rest = tensors
    for other in rest:
        first = first + other
    return first
