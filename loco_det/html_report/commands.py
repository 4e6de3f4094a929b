"""The commands that make the numbers of a report again, put together from what the runs recorded."""

from __future__ import annotations

import copy
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from loco_det.html_report.blocks import ROOT, recorded_place, shown_path
from loco_det.html_report.runs import DETECTION, PRETRAINING, Run, image_folder
from pretrain.checkpoint_files import checkpoint_name
from pretrain.checkpoints import file_sha256, read_backbone
from pretrain.work_dir import config_fingerprint

UNTOLD = object()  # stands for a value that a config does not have


def tool_command(tool: str, *arguments: str | Path) -> str:
    """A command line of one of the project's tools, quoted for a shell."""
    return shlex.join([_python(), f"tools/{tool}.py", *map(str, arguments)])


def _python() -> str:
    """This interpreter, where it is the project's own."""
    python = shown_path(sys.executable)
    return "python" if Path(python).is_absolute() else python


def run_command(run: Run) -> tuple[str, list[str]]:
    """The command that carries out a run, and what to know of it.

    Raises:
        ValueError: the run does not tell its config file.
    """
    file = run.logs.config.get("config_file")
    if file is None:
        raise ValueError(f"{run.path} does not tell its config file: it ended before mmengine wrote its config down")
    arguments: list[str] = [str(file)]
    try:
        wanted = config_fingerprint(Config.fromfile(str(ROOT / file), import_custom_modules=False).to_dict())[1]
    except Exception as error:  # whatever a config file's code may raise
        wanted, notes = None, [f"{file} cannot be read here ({type(error).__name__}), so that overrides of its values by "
                               "--cfg-options are not told"]
    if wanted is not None:
        data_root = _data_root(run, wanted)
        options, notes = _overrides(run, wanted, moved=bool(data_root))
        arguments += data_root
        if options:
            arguments += ["--cfg-options", *options]
    if run.kind == DETECTION and run.backbone is not None:
        arguments += ["--pretrained", shown_path(recorded_place(run.backbone.path))]
    tool = "pretrain" if run.kind == PRETRAINING else "train_det"
    return tool_command(tool, *arguments, "--work-dir", shown_path(run.path)), notes


def export_command(run: Run, pretrainings: Iterable[Run], folders: Iterable[Path]) -> str | None:
    """The command that made a detector's backbone file; None where the file or its pretraining is not found."""
    if run.backbone is None:
        return None
    file = _find_backbone(run, folders)
    if file is None:
        return None
    meta = read_backbone(file).meta
    for pretraining in pretrainings:
        epochs = pretraining.config.get("train_cfg", {}).get("max_epochs")
        if meta.get("epoch") == epochs and meta.get("config_sha256") == pretraining.config_sha256 is not None:
            return tool_command("export_backbone", shown_path(pretraining.path / checkpoint_name(epochs)),
                                shown_path(recorded_place(run.backbone.path)))
    return None


def _overrides(run: Run, wanted: Mapping[str, Any], moved: bool) -> tuple[list[str], list[str]]:
    """``key=value`` for what the run's config has otherwise than its file, and what cannot be spelled so.

    Args:
        run: the run.
        wanted: what its config file resolves to.
        moved: whether ``--data-root`` is among the arguments.
    """
    told, default = _comparable(config_fingerprint(run.config)[1]), _comparable(wanted)
    if moved:  # then nothing is drawn
        default.pop("synthetic_data", None)
    options, gained, unspelled = [], [], []
    for key, value in _differences(default, told):
        if value is UNTOLD:
            gained.append(key)
        elif _can_be_spelled(value):
            options.append(f"{key}={_spelled(value)}")
        else:
            unspelled.append(key)
    notes = [f"the config file as it is here has values that the run had not: {', '.join(gained)}"] if gained else []
    if unspelled:
        notes.append(f"the run had values that --cfg-options cannot spell: {', '.join(unspelled)}; see its run.json")
    return options, notes


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what a run adds to it, and without the places of its files."""
    content = copy.deepcopy(dict(config))
    for key in ("world_size", "pretrained", "custom_imports"):
        content.pop(key, None)
    content.get("synthetic_data", {}).pop("version", None)
    content.get("train_dataloader", {}).get("dataset", {}).pop("data_root", None)
    for key in ("root", "train_sha256", "val_sha256", "hint"):
        content.get("data", {}).pop(key, None)
    return content


def _data_root(run: Run, wanted: Mapping[str, Any]) -> list[str]:
    """``--data-root`` where the run's images lay elsewhere than its config file says."""
    if run.kind == PRETRAINING:
        told, default = image_folder(run), wanted.get("train_dataloader", {}).get("dataset", {}).get("data_root")
    else:
        told, default = run.logs.config.get("data", {}).get("root"), wanted.get("data", {}).get("root")
    if told is None or default is None or Path(told).parts[-len(Path(default).parts):] == Path(default).parts:
        return []
    return ["--data-root", shown_path(recorded_place(told))]


def _differences(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of the leaves of ``b`` that differ from ``a``; :data:`UNTOLD` for what only ``a`` has."""
    if isinstance(b, Mapping) and (a is UNTOLD or isinstance(a, Mapping)):
        a = {} if a is UNTOLD else a
        for key in dict.fromkeys([*b, *a]):
            yield from _differences(a.get(key, UNTOLD), b.get(key, UNTOLD), f"{prefix}{key}.")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and any(isinstance(item, Mapping) for item in b):
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{prefix}{index}.")
    elif a != b:
        yield prefix.rstrip("."), b


def _can_be_spelled(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_can_be_spelled, value))
    return not isinstance(value, Mapping) and str(value).isprintable()


def _spelled(value: Any) -> str:
    """A value as ``--cfg-options`` reads it."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_spelled, value))}]"
    return str(value)


def _find_backbone(run: Run, folders: Iterable[Path]) -> Path | None:
    """The file that the detector started from, where it was or below the folders of the report."""
    recorded = recorded_place(run.backbone.path)
    places = [recorded, *(file for folder in folders for file in folder.rglob(recorded.name))]
    return next((file for file in places if file.is_file() and file_sha256(file) == run.backbone.sha256), None)
