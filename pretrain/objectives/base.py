"""What a local unit minimises: the interface of objectives, and the registry that configs choose from."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from mmengine.registry import Registry
from torch import Tensor, nn

from pretrain.heads import STANDARD_HEAD
from pretrain.options import build_with_options, unknown_name

OBJECTIVES = Registry("objective", locations=["pretrain.objectives"])


class Objective(nn.Module, ABC):
    """The loss of one local unit on its projections; every unit has an instance of its own.

    Its parameters (a predictor, for example) are trained with the unit's and averaged across processes; its buffers (a
    queue) are saved in checkpoints and resumed. Neither is part of an exported backbone. A class whose constructor has an
    argument ``width`` gets the dimension of the projections there; it is not an option of configs.

    Attributes:
        label: what tables and figures call it, such as ``NT-Xent``; by default the name of the class.
        unit: of the loss in figures, such as ``nats``; empty for none.
        head: options of :class:`~pretrain.heads.ProjectionHead` that it brings; the config's take precedence.
        views: which of the two views of an image the encoder sees.
        target_views: which of them the target network sees, the momentum average of encoder and heads
            (:class:`pretrain.local.target.TargetNetwork`); None for no target network.
        global_batchnorm: whether batch norm must be synchronised where there are several processes.
    """

    label: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    head: ClassVar[Mapping[str, Any]] = {}
    views: ClassVar[slice] = slice(0, 2)
    target_views: ClassVar[slice | None] = None
    global_batchnorm: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.label = cls.__dict__.get("label") or cls.__name__

    @abstractmethod
    def forward(self, projections: Tensor, *targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's rows.

        Args:
            projections: ``(2n, D)``, the first views of ``n`` images and then their second views in the same order; of
                :attr:`views` alone where these are fewer.
            targets: with :attr:`target_views`, one tensor: the target network's projections of these, without a graph.

        Returns:
            A scalar whose mean over the processes is the loss of the global batch, as is its gradient's; and detached
            scalars by name, which are logged per unit as means over the processes, such as ``accuracy`` (0 to 1).
        """

    def target_momentum(self, step: int, total_steps: int | None) -> float:
        """Share (0 to 1) of itself that the target network keeps when it follows the weights after a step.

        Args:
            step: the step, counted from 0.
            total_steps: steps of the whole training, where it is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has target_views, but does not define target_momentum")


def head_options(objective: type[Objective], given: Mapping | None) -> dict[str, Any]:
    """Options of the units' heads: those that the objective brings, unless the head is of another class, and those given.

    Raises:
        ValueError: ``given`` is not a dict.
    """
    if not isinstance(given, Mapping | None):
        raise ValueError(f"head is {given!r}, but a dict of options is needed, such as dict(conv_blocks=1)")
    given = dict(given or {})
    return {**objective.head, **given} if given.get("type", STANDARD_HEAD) == STANDARD_HEAD else given


def objective_type(spec: Any) -> type[Objective]:
    """The registered objective of a name or a config.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    name, known = spec.get("type") if isinstance(spec, Mapping) else spec, OBJECTIVES.module_dict
    if name not in known:
        raise unknown_name("objective", name, known)
    return known[name]


def build_objective(spec: str | Mapping, width: int | None = None) -> Objective:
    """Builds an objective from its name or a config ``dict(type=name, ...)``.

    Args:
        spec: name or config.
        width: dimension of the projections, for objectives that need it.

    Raises:
        ValueError: no objective has that name, its options do not fit, or it needs a width that is not known.
    """
    options = {"type": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("type", None)
    make = objective_type(name)
    if "width" in inspect.signature(make).parameters:
        if width is None:
            raise ValueError(f"objective {name!r} needs to know the dimension of the projections: give the class of the "
                             "head an attribute out_channels")
        make = partial(make, width=width)
    return build_with_options(f"objective {name!r}", make, options)
