"""What a pretraining's step takes, from its record: the columns "Max MACs" and "Memory" of the second paper's table 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.readout.encoders import pretraining_image_size
from pretrain.readout.step_costs import count_step, recorded_step
from pretrain.readout.subsampling_published import Cost


def cost_of_record(record: Mapping[str, Any]) -> Cost | None:
    """The costs of a pretraining at its own batch and image size.

    Memory is that of one process with the whole batch, without recomputation: parameters, gradients, activations and the
    optimizer's state at the step's peak.

    Args:
        record: see :func:`pretrain.record.pretraining_record`.

    Returns:
        The costs; None where the record is from before settings were recorded, or does not tell the size of its views.

    Raises:
        ValueError: the encoder cannot take images of that size.
    """
    if record.get("settings") is None or pretraining_image_size(record) is None:
        return None
    counted = count_step(recorded_step(record))
    return Cost(max(counted.unit_macs.values()), counted.cost.peak_bytes + counted.optimizer_bytes)
