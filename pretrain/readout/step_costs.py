"""What a step of a recorded pretraining takes, counted on tensors without data (Fournier et al., 2023, table 1)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import nn

import pretrain.optimizers  # noqa: F401  (registers LARS)
from pretrain.complexity import unit_macs
from pretrain.encoders import build_encoder
from pretrain.local_units import build_units, unit_names
from pretrain.memory import StepCost, step_cost
from pretrain.readout.encoders import pretraining_image_size


@dataclass(frozen=True)
class RecordedStep:
    """A pretraining step of one process with the whole batch.

    Attributes:
        model: options of the learner as JSON.
        optimizer: mmengine's config of the optimizer as JSON.
        batch_size: images, each in two views.
        image_size: side of the views in pixels.
        recompute: mode of recomputation, see :data:`pretrain.segments.RECOMPUTE`.
        precision: of the forward passes: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """

    model: str
    optimizer: str
    batch_size: int
    image_size: int
    recompute: str
    precision: str


@dataclass(frozen=True)
class CountedStep:
    """What a step takes.

    Attributes:
        cost: memory and multiply-adds, see :func:`pretrain.memory.step_cost`, but for ``optimizer_bytes``: these are of the
            pretraining's own optimizer.
        unit_macs: multiply-adds of every local unit for one image, by its name, see :func:`pretrain.complexity.unit_macs`.
    """

    cost: StepCost
    unit_macs: Mapping[str, int]

    @property
    def optimizer_bytes(self) -> int:
        """State of the pretraining's own optimizer, which comes on top of ``cost.peak_bytes``."""
        return self.cost.optimizer_bytes

    def as_dict(self) -> dict[str, Any]:
        """All of it side by side, with ``largest_unit_macs``."""
        return {**asdict(self.cost), "unit_macs": dict(self.unit_macs), "largest_unit_macs": max(self.unit_macs.values())}


def recorded_step(
    record: Mapping[str, Any],
    batch_size: int | None = None,
    image_size: int | None = None,
    recompute: str = "none",
    precision: str | None = None,
) -> RecordedStep:
    """A step of a pretraining, to be counted.

    Args:
        record: of the pretraining, see :func:`pretrain.record.pretraining_record`. It does not tell what was recomputed.
        batch_size: images a step; None for the pretraining's.
        image_size: side of the views in pixels; None for the pretraining's.
        recompute: mode of recomputation.
        precision: of the forward passes; None for the pretraining's.

    Raises:
        ValueError: the record does not tell what is needed, no step trains the whole model, or the batch is too small.
    """
    settings = record.get("settings")
    if settings is None:
        raise ValueError("the pretraining's record is of an older version, which does not tell how it was trained; pass its "
                         "config file instead")
    if record.get("epochs_per_unit") is not None:
        raise ValueError("the pretraining trains one unit after the other, so that no step is one of the whole model; pass "
                         "one that trains all units in every step")
    if image_size is None and (image_size := pretraining_image_size(record)) is None:
        raise ValueError("the pretraining's record does not tell the size of its views; pass one with --image-size")
    batch_size = settings["batch_size"] if batch_size is None else batch_size
    if batch_size < 2:
        raise ValueError(f"batch size is {batch_size}; a contrastive step needs at least 2 images")
    model = dict(encoder=record["encoder"], rule=record["rule"], decoder=record.get("decoder"),
                 soft_sharing=record.get("soft_sharing"), subsampling=settings.get("subsampling"), allow_untrained=True)
    optimizer = settings["optim_wrapper"]["optimizer"]
    return RecordedStep(json.dumps(model, sort_keys=True), json.dumps(optimizer, sort_keys=True),
                        batch_size, image_size, recompute, precision or settings["precision"])


@lru_cache
def count_step(step: RecordedStep) -> CountedStep:
    """Counts what a step takes; nothing runs.

    Raises:
        ValueError: the sizes do not fit the encoder or each other.
    """
    model = json.loads(step.model)
    autocast = None if step.precision == "float32" else "bfloat16"  # float16 has the same sizes
    cost = step_cost(model["encoder"], model, 2 * step.batch_size, step.image_size, step.recompute, autocast)
    with torch.device("meta"):
        encoder = build_encoder(model["encoder"])
    units = build_units(model["rule"], encoder.stages, allow_untrained=True)
    macs = unit_macs(encoder, units, step.image_size)
    one_number = cost.optimizer_bytes  # a parameter, as step_cost counts
    cost = replace(cost, optimizer_bytes=numbers_kept(json.loads(step.optimizer)) * one_number)
    return CountedStep(cost, dict(zip(unit_names(units, encoder.stages), macs, strict=True)))


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
