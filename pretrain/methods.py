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
    told = subsampling_label(threshold, subsampling.get("on", "both"), subsampling.get("average_over", "all"))
    return Method(key, f"{label}, {told}", subsampled=True)


def subsampling_label(threshold: float, on: str = "both", average_over: str = "all") -> str:
    """What tables and figures call a subsampling, such as ``T = 0 on negatives, mean over kept``.

    Args:
        threshold: T.
        on: which pairs are dropped below it; ``"both"``, as in the paper, is not told.
        average_over: which rows the loss is averaged over; ``"all"``, as in the paper, is not told.
    """
    pairs = "" if on == "both" else f" on {on}"
    mean = "" if average_over == "all" else f", mean over {average_over}"
    return f"T = {threshold:g}{pairs}{mean}"


def method_of_config(config: Mapping[str, Any]) -> Method:
    """The method that a pretraining config trains with."""
    return method_of_record({**config["model"], "epochs_per_unit": epochs_per_unit(config)})


def epochs_per_unit(config: Mapping[str, Any]) -> int | None:
    """Epochs of every unit where a pretraining config trains them one after the other; None where it trains all at once."""
    hooks = [hook for hook in config.get("custom_hooks", []) if hook["type"] == "SequentialUnitsHook"]
    return hooks[0]["epochs_per_unit"] if hooks else None


def _rule(rule: Any) -> tuple[str, str]:
    """Key and label of a rule as configs name it."""
    if not isinstance(rule, str | Mapping):
        return "units", f"units {', '.join(map(_unit, rule))}"
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


def _unit(item: Any) -> str:
    """A local unit of a list as configs name it: its blocks, and where they are told those that it updates."""
    start, end, updates = (item["start"], item["end"], item.get("updates")) if isinstance(item, Mapping) else (*item, None)
    return f"[{start},{end})" if updates is None else f"[{start},{end}) updating [{updates[0]},{updates[1]})"


def _decoupled(k: int | None = None, cuts: list[int] | None = None, window: int = 1) -> tuple[str, str]:
    if k == 1:
        return "simclr", "SimCLR"
    overlap = "" if window == 1 else f", window {window}"
    if k is not None:
        return f"decoupled{k}", f"decoupled, K = {k}{overlap}"
    return "decoupled", f"decoupled at {', '.join(map(str, cuts))}{overlap}"
