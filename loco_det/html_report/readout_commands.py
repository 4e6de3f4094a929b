"""The commands that make readouts and analyses again, put together from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from loco_det.html_report.commands import tool_command
from loco_det.html_report.records import ANALYSIS

LINEAR = {"linear": "paper", "linear_cached": "cached", "linear_adam": "adam", "finetune": "finetune"}  # kind -> --protocol
TRAINING = ("epochs", "lr", "weight_decay", "batch_size")
OPTIONS = {  # what of a record's protocol is told to the tool, by kind
    "linear": ("epochs", "lr", "batch_size"),
    "linear_cached": ("batch_size",),
    "linear_adam": TRAINING,
    "finetune": TRAINING,
    "knn": ("k", "temperature", "batch_size"),
    "analysis_probes": ("epochs", "batch_size"),
    "analysis_spectrum": ("points",),
}


def record_command(
    record: Mapping[str, Any], checkpoint: str, places: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, list[str]]:
    """The command of a readout or an analysis, and what to know of it.

    Args:
        record: its result.
        checkpoint: the file that was read out.
        places: where folders of images are, by their names.

    Raises:
        ValueError: the result is of an unknown kind.
    """
    kind, data = record["kind"], record.get("data")
    if kind.startswith(ANALYSIS):
        tool, arguments = "analyze", [checkpoint, "--what", kind.removeprefix(ANALYSIS)]
        if kind == "analysis_probes":
            arguments += ["--protocol", record["protocol"]["name"]]
    elif kind == "knn":
        tool, arguments = "knn_eval", [checkpoint]
    elif kind in LINEAR:
        tool, arguments = "linear_eval", [checkpoint, "--protocol", LINEAR[kind]]
    else:
        raise ValueError(f"results of the kind {kind!r} are of no tool that is known here")
    encoder = record.get("encoder") or {}
    if encoder and not encoder.get("meta"):
        arguments += _encoder_arguments(encoder["encoder"])
    notes = []
    if data is not None:
        arguments += _data_arguments(data, places.get(data["root"], f"DATA/{data['root']}"))
        if data["root"] not in places:
            notes = [f"replace DATA/{data['root']} by the folder's place: the result records no more than its name and a "
                     "fingerprint"]
    protocol = record.get("protocol") or {}
    told = {name: protocol.get(name) for name in OPTIONS.get(kind, ())}
    for name in ("image_size", "autocast"):
        told[name] = protocol.get(name, record.get(name))
    if kind == "analysis_memory":
        told["batch_size"] = record.get("batch_size")
    if data is not None:
        told["seed"] = record.get("seed")
    return tool_command(tool, *arguments, *_options(told.items())), notes


def _data_arguments(data: Mapping[str, Any], place: str) -> list[str]:
    arguments = ["--data", data["source"]]
    if data.get("options"):
        arguments += ["--data-options", *(f"{key}={value}" for key, value in data["options"].items())]
    arguments += ["--data-root", place]
    return arguments + _options((name, data.get(name)) for name in ("train_split", "test_split", "split", "limit"))


def _encoder_arguments(encoder: str | Mapping[str, Any]) -> list[str]:
    options = {"type": encoder} if isinstance(encoder, str) else dict(encoder)
    name = options.pop("type")
    if name == "TimmEncoder":
        name = f"timm/{options.pop('name')}"
    return ["--encoder", name, *(["--encoder-options", *(f"{k}={v}" for k, v in options.items())] if options else [])]


def _options(told: Iterable[tuple[str, Any]]) -> list[str]:
    """``--name value`` for every value that is known."""
    return [part for name, value in told if value is not None for part in (f"--{name.replace('_', '-')}", str(value))]
