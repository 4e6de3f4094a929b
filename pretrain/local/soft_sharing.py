"""Soft sharing: LoCo whose units own copies of the stages that they share, tied by an L2 penalty (LoCo, section 5.5).

Hard sharing gives a stage to two units: to the lower one as its end, to the upper one as its start. Here each has its own.
The encoder's stages, which are exported, are those that units *start* with; the lower unit ends in a copy. For ResNet-50
(stages 2 to 5, copies primed, heads in brackets):

    res2 loss:  images -> res2' [.]
    res3 loss:  images -> res2 -> res3' [.]
    res4 loss:            res2 -> res3 -> res4' [.]
    res5 loss:                    res3 -> res4 -> res5 [.]

A loss reaches the stages that stand beside it in full: res4's loss trains res3 and res4'. So every exported stage sees in
training the inputs that it sees afterwards. A copy feeds only its head, so it is a part of it: what the
executor runs is the encoder with disjoint units.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from pretrain.encoders import Encoder
from pretrain.local.executor import LocalBackprop, UnitLoss
from pretrain.local.units import LocalUnit, loco_units


class SoftSharing:
    """The copies of shared stages, and the penalty on what sets them apart from the encoder's.

    Args:
        encoder: the encoder, initialised; the copies begin equal to it.
        units: LoCo's units, with or without the res2 loss.
        coefficient: of the penalty; 1e-4, 1e-3 and 1e-2 in table 5.

    Attributes:
        copies: one per unit except the top one, whose last stage is shared with no other.

    Raises:
        ValueError: the units are not LoCo's, none of their stages is shared, or the coefficient is negative.
    """

    def __init__(self, encoder: Encoder, units: Sequence[LocalUnit], coefficient: float) -> None:
        if not 0 <= coefficient < float("inf"):
            raise ValueError(f"coefficient of soft_sharing is {coefficient}; a finite number of at least 0 is needed")
        check_loco_units(units, encoder.stages)
        self.encoder = encoder
        self.coefficient = coefficient
        self._ranges = [(_last_stage_start(unit, encoder.stages), unit.end) for unit in units[:-1]]
        self.copies = [
            nn.Sequential(*(copy.deepcopy(encoder.block(index)) for index in range(*blocks))) for blocks in self._ranges
        ]

    def extend(self, heads: Sequence[nn.Module]) -> list[nn.Module]:
        """Puts every copy before its unit's head, as a part of it; one head per unit."""
        lower = [
            nn.Sequential(OrderedDict(copy=stage, head=head))
            for stage, head in zip(self.copies, heads[:-1], strict=True)
        ]
        return [*lower, heads[-1]]

    def descend(self, scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> Tensor:
        """Adds the gradient of the penalty, times the scale, to every ``.grad`` and returns the penalty, detached."""
        pairs = [pair for blocks, stage in zip(self._ranges, self.copies, strict=True)
                 for pair in zip(self.encoder.parameters_of(*blocks), stage.parameters(), strict=True)]
        parameters = list(dict.fromkeys(parameter for pair in pairs for parameter in pair))
        penalty = self.penalty()
        # not backward(): the losses' gradients are complete, and hooks that wait for that must not be called again
        for parameter, grad in zip(parameters, torch.autograd.grad(scale(penalty), parameters), strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return penalty.detach()

    def penalty(self) -> Tensor:
        """Half the coefficient times the squared distance of all pairs of parameters; scalar, with a graph.

        Its gradient is the coefficient times the difference, as that of weight decay is the coefficient times the weight.
        Batch norm's weights and biases count, running statistics do not.
        """
        squares = [
            (own - copied).square().sum()
            for blocks, stage in zip(self._ranges, self.copies, strict=True)
            for own, copied in zip(self.encoder.parameters_of(*blocks), stage.parameters(), strict=True)
        ]
        return self.coefficient / 2 * torch.stack(squares).sum()


class SoftSharingBackprop(LocalBackprop):
    """Runs one step of LoCo with soft sharing; the objectives contain the copies, see :meth:`SoftSharing.extend`.

    Args and errors: as for :class:`~pretrain.local.executor.LocalBackprop`, and :func:`check_loco_units`. Copies are parts
    of heads: every recompute mode but ``none`` does to them what ``norm`` does, none runs them again.
    """

    def __init__(
        self,
        encoder: Encoder,
        units: Sequence[LocalUnit],
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        allow_untrained: bool = False,
        recompute: str = "none",
    ) -> None:
        check_loco_units(units, encoder.stages)
        self._first_is_outside = units[0].start == _last_stage_start(units[0], encoder.stages)
        lower = [LocalUnit(u.start, _last_stage_start(u, encoder.stages)) for u in units[int(self._first_is_outside):-1]]
        super().__init__(encoder, [*lower, units[-1]], autocast, allow_untrained, recompute)

    def step(self, x: Tensor, objectives: Sequence[UnitLoss]) -> list[Tensor]:
        """As :meth:`LocalBackprop.step`, one objective per unit of LoCo; the first stage's own takes the images."""
        if not self._first_is_outside:
            return super().step(x, objectives)
        loss = self._loss(x, objectives[0])
        loss.backward()
        return [loss.detach(), *super().step(x, objectives[1:])]


def check_loco_units(units: Sequence[LocalUnit], stages: Mapping[str, tuple[int, int]]) -> None:
    """Refuses units that are not LoCo's, or share nothing."""
    if list(units) not in (loco_units(stages), loco_units(stages, res2_loss=False)):
        raise ValueError(f"soft_sharing takes the units of LoCo, not {', '.join(map(str, units))}; set "
                         "rule=dict(type='loco'), with or without res2_loss=False, or leave soft_sharing out")
    if len(units) < 2:
        raise ValueError(f"soft_sharing has nothing to tie: {units[0]} is the only unit; set res2_loss=True or choose an "
                         "encoder of more stages")


def _last_stage_start(unit: LocalUnit, stages: Mapping[str, tuple[int, int]]) -> int:
    return next(start for start, end in stages.values() if end == unit.end)
