"""What a step of a recorded pretraining takes, counted on tensors without data (Fournier et al., 2023, table 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import nn

import pretrain.engine.optimizers  # noqa: F401  (registers LARS)
from pretrain.costs.complexity import unit_macs
from pretrain.costs.memory import step_cost
from pretrain.encoders import build_encoder
from pretrain.eval.encoders import pretraining_image_size
from pretrain.local.units import build_units, unit_names
from pretrain.results.method import learner_options


@dataclass(frozen=True)
class RecordedStep:
    """A pretraining step of one process with the whole batch.

    Attributes:
        model: options of the learner.
        optimizer: mmengine's config of the optimizer.
        batch_size: images, each in two views.
        image_size: side of the views in pixels.
        recompute: mode of recomputation, see :data:`pretrain.local.segments.RECOMPUTE`.
        precision: of the forward passes: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    batch_size: int
    image_size: int
    recompute: str
    precision: str


def recorded_step(
    method: Mapping[str, Any],
    setting: Mapping[str, Any],
    batch_size: int | None = None,
    image_size: int | None = None,
    recompute: str = "none",
    precision: str | None = None,
) -> RecordedStep:
    """A step of a pretraining, to be counted.

    Args:
        method: of the pretraining, see :mod:`pretrain.results.method`; it does not say what was recomputed.
        setting: of the pretraining.
        batch_size: images a step; None for the pretraining's.
        image_size: side of the views in pixels; None for the pretraining's.
        recompute: mode of recomputation.
        precision: of the forward passes; None for the pretraining's.

    Raises:
        ValueError: the record does not say what is needed, no step trains the whole model, or the batch is too small.
    """
    model = learner_options(method, setting)
    if method["epochs_per_unit"] is not None:
        raise ValueError("the pretraining trains one unit after the other, so that no step is one of the whole model; pass "
                         "one that trains all units in every step")
    if image_size is None and (image_size := pretraining_image_size(setting)) is None:
        raise ValueError("the size of the pretraining's views is not recorded; pass one with --image-size")
    batch_size = setting["batch_size"] if batch_size is None else batch_size
    if batch_size < 2:
        raise ValueError(f"batch size is {batch_size}; a contrastive step needs at least 2 images")
    return RecordedStep(model, setting["optimizer"]["optimizer"], batch_size, image_size, recompute,
                        precision or setting["precision"])


def count_step(step: RecordedStep) -> dict[str, Any]:
    """Counts what a step takes; nothing runs.

    Returns:
        The fields of :class:`~pretrain.costs.memory.StepCost`, with ``optimizer_bytes`` of the pretraining's own optimizer;
        ``memory_bytes``, peak and optimizer together; multiply-adds of every local unit for one image by its name,
        ``unit_macs`` (:func:`pretrain.costs.complexity.unit_macs`), and of the largest, ``largest_unit_macs``.

    Raises:
        ValueError: the sizes do not fit the encoder or each other, or an objective or rule is not registered.
    """
    autocast = None if step.precision == "float32" else "bfloat16"  # float16 has the same sizes
    encoder = step.model["encoder"]
    cost = step_cost(encoder, step.model, batch_size=step.batch_size, image_size=step.image_size,
                     recompute=step.recompute, autocast=autocast)
    with torch.device("meta"):
        blank = build_encoder(encoder)
    units = build_units(step.model["rule"], blank.stages, allow_untrained=True)
    macs = dict(zip(unit_names(units, blank.stages), unit_macs(blank, units, step.image_size), strict=True))
    optimizer_bytes = numbers_kept(step.optimizer) * cost.optimizer_bytes  # which counts one number a parameter
    return {**asdict(cost), "optimizer_bytes": optimizer_bytes, "memory_bytes": cost.peak_bytes + optimizer_bytes,
            "unit_macs": macs, "largest_unit_macs": max(macs.values())}


def numbers_kept(optimizer: Mapping[str, Any]) -> int:
    """How many numbers an optimizer keeps for every one of a parameter's: 2 for Adam, 1 for LARS.

    Args:
        optimizer: mmengine's config of it.
    """
    weight = nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.ones_like(weight)
    built = OPTIMIZERS.build({**optimizer, "params": [weight], "lr": 0.1})
    built.step()
    return sum(value.numel() for value in built.state[weight].values() if torch.is_tensor(value)) // weight.numel()
