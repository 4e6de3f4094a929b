"""Readout results of the second paper's pretrainings, and its tables as tests read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.readout.adam_probe import AdamLinearProbe
from pretrain.readout.subsampling_report import subsampling_report
from tests.pretrain.readout.written import record_of_config, write_result

ADAM = AdamLinearProbe().protocol() | {"image_size": 32, "autocast": None}
SHORT = "pretrain/subsampling/k{}_{}_resnet18_{}_short.py"
COLUMN = "CIFAR-10 linear (Adam), ResNet-18 (stem=stl, width=16), 5 epochs"


def short(k: int, loss: str = "simclr", data: str = "cifar10", **options: Any) -> dict[str, Any]:
    """The record of a short run of the second paper's; ``options`` as for :func:`record_of_config`."""
    return record_of_config(SHORT.format(k, loss, data), **options)


def write(folder: Path, accuracy: float, meta: dict[str, Any], **options: Any) -> Path:
    """A result by the paper's readout, in a file whose name says nothing."""
    number = len(list(folder.glob("*.json")))
    return write_result(folder / f"{number}.json", accuracy, meta, **{"kind": "linear_adam", "protocol": ADAM, **options})


def cells(*paths: Path, **options: Any) -> list[list[str]]:
    """The cells of a Markdown table, line by line; what stands above the table is left out."""
    lines = [line for line in subsampling_report(paths, **options).text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def legend(*paths: Path, **options: Any) -> list[str]:
    """The lines above a Markdown table."""
    return [line for line in subsampling_report(paths, **options).text.splitlines() if line and not line.startswith("|")]


def numbers(*paths: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows of a table in JSON."""
    return json.loads(subsampling_report(paths, fmt="json", **options).text)["rows"]
