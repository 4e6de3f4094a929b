"""Results of readouts: what is recorded, and where."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmengine
import torch
import torchvision

from pretrain.readout.encoders import RANDOM

RANDOM_FOLDER = Path("work_dirs/readout")
NAMED_BY_ROOT = ("folder", "file_list", "webdataset")  # sources that may be any data set: their folder names it


def result_file(kind: str, file: str, encoder: Mapping[str, Any], data: Mapping[str, Any], seed: int) -> Path:
    """Where a result is written unless the user says where.

    Args:
        kind: of the method.
        file: the encoder's file as the user gave it, or ``"random"``.
        encoder: the encoder's config.
        data: the record of the data.
        seed: of the readout.

    Returns:
        ``<checkpoint without suffix>.readout/<kind>_<data set>.json`` beside the checkpoint; for a random encoder
        ``work_dirs/readout/random_<encoder>_seed<seed>.readout/...``. A limited training set is part of the name.
    """
    if file == RANDOM:
        options = "_".join(str(value) for key, value in encoder.items() if key != "type")
        name = "_".join(filter(None, ["random", str(encoder["type"]), options, f"seed{seed}"]))
        folder = RANDOM_FOLDER / f"{_file_name(name)}.readout"
    else:
        folder = Path(file).with_suffix(".readout")
    limited = "" if data["limit"] is None else f"_{data['limit']}images_seed{seed}"
    return folder / f"{kind}_{_file_name(dataset_name(data))}{limited}.json"


def dataset_name(data: Mapping[str, Any]) -> str:
    """What to call the data set: the source's name where it says which set it is, otherwise that of the data's folder."""
    return data["root"] if data["source"] in NAMED_BY_ROOT and data["root"] else data["source"]


def finished_result(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in a file if it is there and of these settings."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    settings = json.loads(json.dumps(settings))
    return record if isinstance(record, dict) and _holds(record, settings) else None


def _holds(record: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    data = {key: record.get("data", {}).get(key) for key in settings["data"]}
    found = {**{key: record.get(key) for key in settings}, "data": data, "stages": list(record.get("stages", {}))}
    return found == settings


def versions() -> dict[str, str]:
    """Versions of what computes a readout."""
    modules = dict(torch=torch, torchvision=torchvision, mmengine=mmengine)
    return {"python": platform.python_version(), **{name: str(module.__version__) for name, module in modules.items()}}


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text)
