"""Activations that normalisation, ReLU and residual sums can give back are computed again instead of kept.

A residual network keeps two maps a convolution for its backward pass: the convolution's output (for the batch norm behind
it) and the activation made of that (for the next convolution and for the ReLU). The second follows from the first by
elementwise operations alone. Inside :func:`cheap_recompute` it is therefore not saved; a rule is, which computes it again
when a backward pass asks. Unlike selective checkpointing this allows any number of backward passes through one graph, and
no convolution runs twice. Networks whose activations are made in place by batch norm, ReLU and sums profit (ResNet and its
kin); everything else is saved as always.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LONGEST_CHAIN = 2  # sums to be computed for one activation: in a longer stage some block outputs are kept


class SavedTensor:
    """A tensor that must not change while autograd or a rule needs it, as autograd itself would see to.

    Raises:
        RuntimeError: from :meth:`tensor`, if an operation in place has changed it in the meantime.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._version = tensor, tensor._version

    def tensor(self) -> Tensor:
        if self._tensor._version != self._version:
            raise RuntimeError(f"a tensor of shape {tuple(self._tensor.shape)} that is needed for gradient computation has "
                               f"been modified by an inplace operation: it is at version {self._tensor._version}, "
                               f"expected {self._version}")
        return self._tensor


@dataclass(frozen=True)
class Normalisation:
    """What a batch norm did with the batch's statistics.

    Attributes:
        x: its input ``(B, C, ...)``, which autograd keeps anyway.
        mean: ``(C,)``.
        inverse_std: ``(C,)``, ``1 / sqrt(variance + eps)``.
        weight: ``(C,)`` or None.
        bias: ``(C,)`` or None.
        eps: the batch norm's.
    """

    x: SavedTensor
    mean: Tensor
    inverse_std: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def output(self) -> Tensor:
        """The output, by the kernel for given statistics."""
        variance = self.inverse_std.pow(-2) - self.eps
        return F.batch_norm(self.x.tensor(), self.mean, variance, self.weight, self.bias, training=False, eps=self.eps)

    def added_to(self, addend: Tensor) -> Tensor:
        """The output plus ``addend``, in the addend's memory."""
        x = self.x.tensor()
        shape = (-1, *[1] * (x.dim() - 2))
        scale = self.inverse_std if self.weight is None else self.weight * self.inverse_std
        shift = -self.mean * scale if self.bias is None else self.bias - self.mean * scale
        return addend.addcmul_(x, scale.view(shape)).add_(shift.view(shape))


class RecomputeRule:
    """How to compute an activation again: a batch norm, perhaps a residual sum, perhaps a ReLU.

    Args:
        norm: the batch norm.
        like: the activation; only its geometry and type are noted.
        version: the version of the activation's memory that the rule describes.
        addend: what was added, as a rule where it has one.
        relu: whether a ReLU came last.
    """

    def __init__(
        self,
        norm: Normalisation,
        like: Tensor,
        version: int,
        addend: SavedTensor | RecomputeRule | None = None,
        relu: bool = False,
    ) -> None:
        self.norm, self.version, self.addend, self.relu = norm, version, addend, relu
        self.chain = 0 if addend is None else 1 + (addend.chain if isinstance(addend, RecomputeRule) else 0)
        self.geometry = (like.shape, like.stride(), like.storage_offset(), like.dtype)
        self.kept: SavedTensor | None = None  # the activation itself, where something else keeps it alive anyway
        self._uses = 0  # autograd nodes that saved it; each asks once in a backward pass
        self._asked = 0
        self._made: Tensor | None = None

    def describes(self, tensor: Tensor) -> bool:
        """Whether the tensor, which shares the activation's memory, is that activation."""
        geometry = (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
        return geometry == self.geometry and tensor._version == self.version

    def save(self) -> RecomputeRule:
        """Counts one more node that will ask."""
        self._uses += 1
        return self

    def serve(self) -> Tensor:
        """The activation for a node that saved it; made for the first that asks, forgotten after the last."""
        value = self._made = self._known() if self._known() is not None else self._make()
        self._asked += 1
        if self._asked % self._uses == 0:
            self._made = None
        return value

    def _known(self) -> Tensor | None:
        return self.kept.tensor() if self.kept is not None else self._made

    @torch.no_grad()
    def _make(self) -> Tensor:
        addend = self.addend
        if isinstance(addend, RecomputeRule) and addend._known() is None:
            out = self.norm.added_to(addend._make())
        else:
            out = self.norm.output()
            if addend is not None:
                out = out.add_(addend._known() if isinstance(addend, RecomputeRule) else addend.tensor())
        if self.relu:
            out = out.relu_()
        return out.to(self.geometry[-1])


class _RecordRules(TorchFunctionMode):
    """Notes on the memory of every activation how it came about."""

    active = 0  # how many of them are entered

    def __enter__(self) -> _RecordRules:
        _RecordRules.active += 1
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        _RecordRules.active -= 1
        super().__exit__(*exception)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.batch_norm:
            out = func(*args, **kwargs)
            norm = _normalisation(out, *args, **kwargs)
            if norm is not None:
                out.untyped_storage().recompute_rule = RecomputeRule(norm, out, out._version)
            return out
        if args and isinstance(args[0], Tensor) and (rule := rule_of(args[0])) is not None:
            after = _after(rule, func, args, kwargs)
            if after is not None:  # noted before it runs, because autograd saves the result on the way
                args[0].untyped_storage().recompute_rule = after
        return func(*args, **kwargs)


@contextlib.contextmanager
def cheap_recompute() -> Iterator[None]:
    """Graphs built inside keep rules instead of the activations that these can give back."""
    with _RecordRules(), torch.autograd.graph.saved_tensors_hooks(_pack, _unpack):
        yield


def record_normalisation(
    out: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> None:
    """For a batch norm that is not torch's: what it did in train mode, where rules are recorded now.

    Args:
        out: its output.
        x: its input ``(B, C, ...)``, which it saves for its backward pass.
        mean: the statistics that it used, ``(C,)``.
        inverse_std: ``(C,)``.
        weight: ``(C,)``.
        bias: ``(C,)``.
        eps: its own.
    """
    if _RecordRules.active and out.requires_grad:
        norm = Normalisation(SavedTensor(x.detach()), mean, inverse_std, weight.detach(), bias.detach(), eps)
        out.untyped_storage().recompute_rule = RecomputeRule(norm, out, out._version)


def keep(output: Tensor, alive: Tensor | None = None) -> None:
    """Ends recording at an activation that stays alive anyway, such as the output of a stage: it is not made again.

    Args:
        output: the activation.
        alive: the same values in memory that something else keeps, from an earlier forward pass; the output's own if None.
    """
    rule = rule_of(output)
    if rule is not None:
        del output.untyped_storage().recompute_rule
        rule.kept, rule.addend = SavedTensor(output.detach() if alive is None else alive), None


def rule_of(tensor: Tensor) -> RecomputeRule | None:
    """The rule of an activation, if there is one and it still holds."""
    rule = getattr(tensor.untyped_storage(), "recompute_rule", None)  # lives and dies with the memory, whoever holds that
    return rule if rule is not None and rule.describes(tensor) else None


def _pack(tensor: Tensor) -> SavedTensor | RecomputeRule:
    rule = rule_of(tensor)
    return SavedTensor(tensor) if rule is None else rule.save()


def _unpack(saved: SavedTensor | RecomputeRule) -> Tensor:
    return saved.serve() if isinstance(saved, RecomputeRule) else saved.tensor()


def _normalisation(
    out: Tensor, x: Tensor, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Normalisation | None:
    """What a batch norm in train mode did; autograd has saved the statistics."""
    mean, inverse_std = (getattr(out.grad_fn, f"_saved_result{i}", None) for i in (1, 2))
    if mean is None or inverse_std is None or mean.shape != (x.shape[1],):  # in eval mode, or no graph
        return None
    return Normalisation(SavedTensor(x.detach()), mean, inverse_std, weight, bias, eps)


def _after(rule: RecomputeRule, func, args: tuple, kwargs: dict) -> RecomputeRule | None:
    """The rule after one more operation in place; None for every operation that is not a sum or a ReLU at its time."""
    like, version = args[0], rule.version + 1
    if func is torch.relu_ or func is Tensor.relu_ or (func is F.relu and (kwargs.get("inplace") or True in args[1:])):
        return RecomputeRule(rule.norm, like, version, rule.addend, relu=True)
    is_sum = func in (Tensor.add_, Tensor.__iadd__) and len(args) == 2 and isinstance(args[1], Tensor) and not kwargs
    if not is_sum or rule.addend is not None or rule.relu or args[1].shape != like.shape:
        return None
    addend = rule_of(args[1])
    if addend is not None and addend.chain == LONGEST_CHAIN:
        addend = None
    return RecomputeRule(rule.norm, like, version, addend or SavedTensor(args[1].detach()))
