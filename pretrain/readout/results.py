"""Results of readouts: what is recorded, and where."""

from __future__ import annotations

import json
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mmengine
import torch
import torchvision

from pretrain.readout.encoders import RANDOM
from pretrain.work_dir import differing_keys

RANDOM_FOLDER = Path("work_dirs/readout")
NAMED_BY_ROOT = ("folder", "file_list", "webdataset", "coco_objects")  # may be any data set: their folder names it


def result_file(
    kind: str, file: str, encoder: Mapping[str, Any], data: Mapping[str, Any] | None, seed: int, variant: Iterable[str] = ()
) -> Path:
    """Where a result is written unless the user says where.

    Args:
        kind: of the method.
        file: the encoder's file as the user gave it, or ``"random"``.
        encoder: the encoder's config.
        data: the record of the data; None where none are read.
        seed: of the readout.
        variant: words for what else the name is to tell.

    Returns:
        ``<checkpoint without suffix>.readout/<kind>[_<data set>][_<variant>].json`` beside the checkpoint; for a random
        encoder ``work_dirs/readout/random_<encoder>_seed<seed>.readout/...``. A limited training set is part of the name.
    """
    if file == RANDOM:
        options = "_".join(str(value) for key, value in encoder.items() if key != "type")
        name = "_".join(filter(None, ["random", str(encoder["type"]), options, f"seed{seed}"]))
        folder = RANDOM_FOLDER / f"{file_name(name)}.readout"
    else:
        folder = Path(file).with_suffix(".readout")
    words = [kind]
    if data is not None:
        words += [dataset_name(data), *([] if data["limit"] is None else [f"{data['limit']}images_seed{seed}"])]
    return folder / f"{file_name('_'.join([*words, *variant]))}.json"


def dataset_name(data: Mapping[str, Any]) -> str:
    """What to call the data set: the source's name where it says which set it is, otherwise that of the data's folder."""
    return data["root"] if data["source"] in NAMED_BY_ROOT and data["root"] else data["source"]


def finished_result(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of these settings that a file holds; None where there is no such file.

    Raises:
        ValueError: the file holds something else, which must not be overwritten; the settings that differ are named.
    """
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        known = {key: record.get(key) for key in settings}
        if "data" in settings:
            known["data"] = {key: value for key, value in record["data"].items() if key != "undecodable"}
        if "stages" in settings:
            known["stages"] = list(record["stages"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} exists and is no readout result; delete it, or choose another file with --out") from error
    check_same_settings(known, settings, f"{file} holds the result of a readout")
    return record


def check_same_settings(known: Mapping[str, Any], settings: Mapping[str, Any], what: str) -> None:
    """Compares the settings of a file with those asked for, as they are in JSON.

    Args:
        known: of the file.
        settings: asked for.
        what: what the file holds, the message's beginning.

    Raises:
        ValueError: they differ; names the keys.
    """
    differing = differing_keys(*(json.loads(json.dumps(each)) for each in (known, settings)))
    if differing:
        raise ValueError(f"{what} with other settings; differing keys: {', '.join(differing[:5])}"
                         f"{', ...' if len(differing) > 5 else ''}; choose another file with --out, or delete this one")


def check_writable(file: Path) -> None:
    """Makes a file's folder and tries to write there, so that hours of work do not end in a refusal.

    Raises:
        ValueError: it cannot be written.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name the file to write, such as {file / 'result.json'}")
    if file.exists() and not file.is_file():  # such as /dev/null, which would be replaced
        raise ValueError(f"{file} is no regular file; choose another one with --out")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error}); choose another file with --out") from error


def versions() -> dict[str, str]:
    """Versions of what computes a readout."""
    modules = dict(torch=torch, torchvision=torchvision, mmengine=mmengine)
    return {"python": platform.python_version(), **{name: str(module.__version__) for name, module in modules.items()}}


def file_name(text: str) -> str:
    """A text as part of a file's name: all but letters, digits and ``_.-`` becomes ``_``."""
    return re.sub(r"[^\w.-]+", "_", text)
