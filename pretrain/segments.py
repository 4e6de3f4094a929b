"""Pieces of an encoder that run forward once and backward as often as they are asked, keeping or rebuilding their graphs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from pretrain.encoders import Encoder

RECOMPUTE = {
    "none": "every activation is kept until its last backward pass",
    "entry": "the first block of a segment is run again for each backward pass after the first",
    "stage": "a segment is run again for each backward pass that does not follow at once on its forward pass",
    "block": "like stage, one block at a time: of the others only the inputs are kept",
}


def check_recompute(recompute: str) -> None:
    """Refuses a mode that is not in :data:`RECOMPUTE`."""
    if recompute not in RECOMPUTE:
        near = difflib.get_close_matches(str(recompute), RECOMPUTE, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown recompute mode {recompute!r}; known are {', '.join(RECOMPUTE)}{hint}")


def segment_pieces(start: int, end: int, recompute: str) -> list[tuple[int, int]]:
    """The ranges of blocks into which a recompute mode cuts the segment ``[start, end)``."""
    if recompute == "block":
        return [(i, i + 1) for i in range(start, end)]
    if recompute == "entry" and end - start > 1:
        return [(start, start + 1), (start + 1, end)]
    return [(start, end)]


class GradientSource(torch.autograd.Function):
    """A scalar whose backward pass starts at ``output`` with a gradient given beforehand, without holding on to it.

    ``torch.autograd.backward(output, grad)`` keeps ``grad`` alive to its end; here it is freed as soon as it is used.
    """

    @staticmethod
    def forward(ctx, output: Tensor, grad: list[Tensor]) -> Tensor:
        ctx.grad = grad
        return output.new_zeros(())

    @staticmethod
    def backward(ctx, _: Tensor) -> tuple[Tensor, None]:
        return ctx.grad.pop(), None


class Piece:
    """Blocks ``[start, end)`` with one autograd graph, which can be dropped and built again.

    Args:
        encoder: the encoder.
        start: first block.
        end: one past the last block.
        autocast: context of the forward pass.
    """

    def __init__(self, encoder: Encoder, start: int, end: int, autocast: Callable[[], AbstractContextManager]) -> None:
        self.encoder, self.start, self.end = encoder, start, end
        self._autocast = autocast
        self.input: Tensor | None = None  # detached leaf (B, C, h, w)
        self.keeps_graph = True  # between two backward passes
        self._graph: Tensor | None = None  # the output with its graph
        self._random_state: Tensor | None = None

    def forward(self, x: Tensor, with_graph: bool, input_grad: bool) -> Tensor:
        """Runs the blocks; the result is detached."""
        self.input = x.detach().requires_grad_(input_grad)
        self._random_state = torch.get_rng_state()
        with torch.set_grad_enabled(with_graph), self._autocast():
            output = self.encoder.run(self.input, self.start, self.end)
        self._graph = output if with_graph else None
        return output.detach()

    def backward(self, grad: list[Tensor], weights: bool, to_input: bool, keep: bool) -> None:
        """Consumes the gradient at the output, and puts the one at the input in its place if that is wanted.

        Args:
            grad: holds the gradient at the output.
            weights: whether weight gradients are accumulated.
            to_input: whether the gradient at the input is wanted.
            keep: whether another backward pass will come.
        """
        leaves = [p for p in self.encoder.parameters_of(self.start, self.end) if p.requires_grad] if weights else []
        if to_input:
            leaves.append(self.input)
        if not leaves:
            grad.clear()
            return
        if self._graph is None:
            self._rebuild()
        keep = keep and self.keeps_graph
        root = GradientSource.apply(self._graph, grad)
        if not keep:
            self._graph = None
        torch.autograd.backward(root, inputs=leaves, retain_graph=keep)
        if to_input:
            grad.append(self.input.grad)
            self.input.grad = None

    def release(self) -> None:
        """Forgets everything of this step."""
        self.input = self._graph = None

    def _rebuild(self) -> None:
        blocks = [self.encoder.block(i) for i in range(self.start, self.end)]
        with frozen_statistics(blocks), torch.random.fork_rng(devices=[]), self._autocast():
            torch.set_rng_state(self._random_state)  # dropout must drop the same
            self._graph = self.encoder.run(self.input, self.start, self.end)


class Segment:
    """The pieces of a stretch of blocks that the same units cover.

    Args:
        encoder: the encoder.
        pieces: their ranges of blocks, ascending and without gaps.
        autocast: context of the forward pass.
    """

    def __init__(
        self, encoder: Encoder, pieces: Sequence[tuple[int, int]], autocast: Callable[[], AbstractContextManager]
    ) -> None:
        self.pieces = [Piece(encoder, start, end, autocast) for start, end in pieces]
        self.start, self.end = pieces[0][0], pieces[-1][1]
        self.output: Tensor | None = None  # detached

    def forward(self, x: Tensor, with_graph: bool, input_grad: bool, descent_follows: bool, recompute: str) -> None:
        """Runs forward.

        Args:
            x: input of the first piece, ``(B, C, h, w)``.
            with_graph: whether any backward pass will come.
            input_grad: whether one of them wants the gradient at the segment's input.
            descent_follows: whether the first of them comes at once; then the topmost graph need not be built twice.
            recompute: the mode, see :data:`RECOMPUTE`.
        """
        for piece in self.pieces:
            top = piece is self.pieces[-1]
            build = recompute in ("none", "entry") or (descent_follows and top)
            piece.keeps_graph = recompute == "none" or (recompute == "entry" and top)
            x = piece.forward(x, with_graph and build, input_grad or piece is not self.pieces[0])
        self.output = x

    def backward(self, grad: list[Tensor], weights: bool, to_input: bool, keep: bool) -> None:
        """See :meth:`Piece.backward`; here for the segment as a whole."""
        for piece in reversed(self.pieces):
            piece.backward(grad, weights, to_input or piece is not self.pieces[0], keep)

    def release(self) -> None:
        """Forgets everything of this step."""
        self.output = None
        for piece in self.pieces:
            piece.release()


@contextmanager
def frozen_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Batch norms normalise with the batch's statistics as always, but leave their running statistics alone."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [m for m in norms if m.training and m.track_running_stats]
    try:
        for module in tracking:
            module.track_running_stats = False
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
