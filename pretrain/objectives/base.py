"""What a local unit minimises: the interface of objectives, and the registry that configs choose from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from mmengine.registry import Registry
from torch import Tensor, nn

from pretrain.options import build_with_options, unknown_name

OBJECTIVES = Registry("objective", locations=["pretrain.objectives"])


class Objective(nn.Module, ABC):
    """The loss of one local unit on its projections; every unit has an instance of its own.

    Its parameters are trained with the unit's and averaged across processes; its buffers are saved in checkpoints and
    resumed. Neither is part of an exported backbone.

    Attributes:
        label: what tables and figures call it, such as ``NT-Xent``; by default the name of the class.
        unit: of the loss in figures, such as ``nats``; empty for none.
    """

    label: ClassVar[str] = ""
    unit: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.label = cls.__dict__.get("label") or cls.__name__

    @abstractmethod
    def forward(self, projections: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this process's rows.

        Args:
            projections: ``(2n, D)``, the first views of ``n`` images and then their second views in the same order.

        Returns:
            A scalar whose mean over the processes is the loss of the global batch, as is its gradient's; and detached
            scalars by name, which are logged per unit as means over the processes, such as ``accuracy`` (0 to 1).
        """


def objective_type(name: Any) -> type[Objective]:
    """The registered objective of a name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    known = OBJECTIVES.module_dict
    if name not in known:
        raise unknown_name("objective", name, known)
    return known[name]


def build_objective(spec: str | Mapping) -> Objective:
    """Builds an objective from its name or a config ``dict(type=name, ...)``.

    Raises:
        ValueError: no objective has that name, or its options do not fit.
    """
    options = {"type": spec} if isinstance(spec, str) else dict(spec)
    name = options.pop("type", None)
    return build_with_options(f"objective {name!r}", objective_type(name), options)
