"""What tables and figures call a way of pretraining, told by what was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LABELS = {
    "random": "random",
    "supervised": "supervised",
    "simclr": "SimCLR",
    "gim": "GIM",
    "loco": "LoCo",
    "upper_gradient": "upper gradient only",
    "sharing": "sharing blocks",
    "decoupled": "decoupled",
}


@dataclass(frozen=True)
class Method:
    """A way of pretraining.

    Attributes:
        key: what figures give a colour to, such as ``loco`` or ``decoupled8``: the learning rule, whatever else was done.
        label: for readers, such as ``LoCo, window 3`` or ``decoupled, K = 8, T = 0``.
        subsampled: whether pairs of low similarity were left out.
    """

    key: str
    label: str
    subsampled: bool = False


def named_method(name: str) -> Method:
    """A method of which no more than its name is known, as of a detector's results."""
    return Method(name, LABELS.get(name, name))


def method_of_record(record: Mapping[str, Any]) -> Method:
    """The method of a pretraining.

    Args:
        record: a pretraining record (:mod:`pretrain.record`), or a learner's options: ``rule``, and where there are any
            ``soft_sharing``, ``epochs_per_unit``, and ``subsampling``, in a record below ``settings``.
    """
    key, label = _rule(record["rule"])
    if record.get("soft_sharing"):
        label += f", soft sharing {record['soft_sharing']['coefficient']:g}"
    if record.get("epochs_per_unit") is not None:
        label += ", one unit after the other"
    subsampling = record.get("subsampling") or (record.get("settings") or {}).get("subsampling") or {}
    threshold = subsampling.get("threshold")
    if threshold is None:
        return Method(key, label)
    on = subsampling.get("on", "both")
    return Method(key, f"{label}, T = {threshold:g}{'' if on == 'both' else f' on {on}'}", subsampled=True)


def _rule(rule: Any) -> tuple[str, str]:
    """Key and label of a rule as configs name it."""
    if not isinstance(rule, str | Mapping):
        spans = [(item["start"], item["end"]) if isinstance(item, Mapping) else tuple(item) for item in rule]
        return "units", f"units {' '.join(f'[{start},{end})' for start, end in spans)}"
    options = {"type": rule} if isinstance(rule, str) else dict(rule)
    name = options.pop("type")
    if name == "decoupled":
        return _decoupled(**options)
    label = LABELS.get(name, name)
    if name == "sharing":
        blocks = options["blocks"]
        return name, f"sharing {blocks} block{'' if blocks == 1 else 's'}"
    if options.get("window", 2) != 2:
        label += f", window {options['window']}"
    if options.get("res2_loss") is False:
        label += ", no res2 loss"
    return name, label


def _decoupled(k: int | None = None, cuts: list[int] | None = None, window: int = 1) -> tuple[str, str]:
    if k == 1:
        return "simclr", "SimCLR"
    overlap = "" if window == 1 else f", window {window}"
    if k is not None:
        return f"decoupled{k}", f"decoupled, K = {k}{overlap}"
    return "decoupled", f"decoupled at {', '.join(map(str, cuts))}{overlap}"
