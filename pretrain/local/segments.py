"""Parts of an encoder that run forward once and backward as often as they are asked, keeping or rebuilding their graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

from pretrain.encoders import Encoder
from pretrain.local.recompute import cheap_recompute, keep
from pretrain.options import unknown_name

RECOMPUTE = {
    "none": "every activation is kept until its last backward pass",
    "norm": "normalisation, ReLU and residual sums are computed again, no convolution is",
    "stage": "a segment is run again for each backward pass that does not follow at once on its forward pass",
    "block": "like stage, one block at a time: of the others only the inputs are kept",
}


def check_recompute(recompute: str) -> None:
    """Refuses a mode that is not in :data:`RECOMPUTE`."""
    if not isinstance(recompute, str) or recompute not in RECOMPUTE:
        raise unknown_name("recompute mode", recompute, RECOMPUTE)


def segment_parts(
    encoder: Encoder, start: int, end: int, recompute: str, autocast: Callable[[], AbstractContextManager] = nullcontext
) -> list[SegmentPart]:
    """The parts into which a recompute mode cuts the segment ``[start, end)``; the stem counts as a block of its own."""
    if recompute != "block":
        return [SegmentPart([layer for i in range(start, end) for layer in encoder.block(i)], recompute, autocast)]
    blocks = [list(encoder.block(i)) for i in range(start, end)]
    if start == 0 and len(blocks[0]) > 1:
        blocks[:1] = [blocks[0][:-1], blocks[0][-1:]]
    return [SegmentPart(layers, recompute, autocast) for layers in blocks]


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


class RandomState:
    """The random states of the CPU and of a tensor's device, as they are now."""

    def __init__(self, x: Tensor) -> None:
        self._cpu = torch.get_rng_state()
        self._device_type = x.device.type
        self._devices, self._states = get_device_states(x)  # none on the CPU

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Random numbers inside are those that came after this state; outside nothing changes."""
        with torch.random.fork_rng(self._devices, device_type=self._device_type, enabled=True):
            torch.set_rng_state(self._cpu)
            if self._devices:
                set_device_states(self._devices, self._states, device_type=self._device_type)
            yield


class SegmentPart:
    """Layers of the encoder with one autograd graph, which can be dropped and built again.

    Args:
        layers: the layers, in the order in which they run.
        recompute: the mode, see :data:`RECOMPUTE`.
        autocast: context of the forward pass.

    Attributes:
        keeps_graph: whether the graph stays between two backward passes.
    """

    def __init__(self, layers: Sequence[nn.Module], recompute: str, autocast: Callable[[], AbstractContextManager]) -> None:
        self.layers = nn.Sequential(*layers)
        self.keeps_graph = recompute in ("none", "norm")
        self._cheap = recompute != "none"  # whether graphs hold rules for what normalisation and ReLU make
        self._autocast = autocast
        self.input: Tensor | None = None  # detached leaf (B, C, h, w)
        self._source: Tensor | None = None  # what the input was detached from, the output of the part below
        self._output: weakref.ReferenceType[Tensor] | None = None  # alive as long as the part above needs it
        self._graph: Tensor | None = None  # the output with its graph
        self._random_state: RandomState | None = None

    def forward(self, x: Tensor, with_graph: bool, input_grad: bool) -> Tensor:
        """Runs the blocks; the result is detached."""
        self._source, self.input = x, x.detach().requires_grad_(input_grad)
        self._random_state = None if self.keeps_graph else RandomState(x)
        with torch.set_grad_enabled(with_graph):
            output = self._run()
        self._graph = output if with_graph else None
        detached = output.detach()
        self._output = weakref.ref(detached)
        return detached

    def backward(self, grad: list[Tensor], weights: bool, to_input: bool, keep: bool) -> None:
        """Consumes the gradient at the output, and puts the one at the input in its place if that is wanted.

        Args:
            grad: holds the gradient at the output.
            weights: whether weight gradients are accumulated.
            to_input: whether the gradient at the input is wanted.
            keep: whether another backward pass will come.
        """
        leaves = [p for p in self.layers.parameters() if p.requires_grad] if weights else []
        if to_input:
            leaves.append(self.input)
        if not leaves:
            grad.clear()
            return
        if self._graph is None:
            self._rebuild()
        keep_graph = keep and self.keeps_graph
        root = GradientSource.apply(self._graph, grad)
        if not keep_graph:
            self._graph = None  # so that its activations are freed while the pass goes down
        torch.autograd.backward(root, inputs=leaves, retain_graph=keep_graph)
        if to_input:
            grad.append(self.input.grad)
            self.input.grad = None
        if not keep:
            self.release()

    def release(self) -> None:
        """Forgets everything of this step."""
        self.input = self._source = self._graph = None

    def _rebuild(self) -> None:
        with frozen_statistics(self.layers), self._random_state.restored():  # dropout must drop the same
            self._graph = self._run()

    def _run(self) -> Tensor:
        with self._autocast():
            if not (self._cheap and torch.is_grad_enabled()):
                return self.layers(self.input)
            with cheap_recompute():
                output = self.layers(self.input)
            keep(output, alive=self._output() if self._output is not None else None)
            return output


class Segment:
    """A state of blocks that the same units cover.

    Args:
        encoder: the encoder.
        start: first block.
        end: one past the last block.
        recompute: the mode, see :data:`RECOMPUTE`.
        autocast: context of the forward pass.
    """

    def __init__(
        self,
        encoder: Encoder,
        start: int,
        end: int,
        recompute: str = "none",
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.start, self.end = start, end
        self.parts = segment_parts(encoder, start, end, recompute, autocast)
        self.output: Tensor | None = None  # detached

    def forward(self, x: Tensor, with_graph: bool, input_grad: bool, backward_follows: bool) -> None:
        """Runs forward.

        Args:
            x: input of the first part, ``(B, C, h, w)``.
            with_graph: whether any backward pass will come.
            input_grad: whether one of them wants the gradient at the segment's input.
            backward_follows: whether the first of them comes at once; then the topmost graph need not be built twice.
        """
        for part in self.parts:
            build = part.keeps_graph or (backward_follows and part is self.parts[-1])
            x = part.forward(x, with_graph and build, input_grad or part is not self.parts[0])
        self.output = x

    def backward(self, grad: list[Tensor], weights: bool, to_input: bool, keep: bool) -> None:
        """See :meth:`SegmentPart.backward`; here for the segment as a whole."""
        if not keep:
            self.output = None
        for part in reversed(self.parts):
            part.backward(grad, weights, to_input or part is not self.parts[0], keep)

    def release(self) -> None:
        """Forgets everything of this step."""
        self.output = None
        for part in self.parts:
            part.release()


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise with the batch's statistics as always, but leave their running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracking = [m for m in norms if m.training and m.track_running_stats]
    try:
        for norm in tracking:
            norm.track_running_stats = False
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True
