"""What mmengine's logs in a work directory tell of a run: when it ran, on what, and its complete config."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

LOG_FILES = "*/*.log"  # one for every start of the run
DUMPED_CONFIGS = "*/vis_data/config.py"
EDGE_BYTES = 2**16  # of a log that may have grown to gigabytes, its first and last ones
_TIME = re.compile(r"^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - mmengine", re.MULTILINE)
_ENVIRONMENT = {  # mmengine's keys, and ours
    "sys.platform": "platform", "Python": "Python", "PyTorch": "PyTorch", "TorchVision": "torchvision",
    "MMEngine": "mmengine", "CUDA_HOME": "CUDA", "CPU capability usage": "CPU instructions",
}
_GPU = re.compile(r"^\s+(GPU [\d,]+): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class RunLogs:
    """What the logs of a run tell.

    Attributes:
        sessions: beginning and end of every start of the run that logged anything, ascending.
        environment: versions and hardware of the last start; empty where none is logged.
        config: the complete config of the last start as mmengine wrote it down, with the places of data and files; empty
            where there is none.
    """

    sessions: tuple[tuple[datetime, datetime], ...]
    environment: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def seconds(self) -> float | None:
        """From the first to the last line of every start, added up; None without logs."""
        return sum((end - begin).total_seconds() for begin, end in self.sessions) if self.sessions else None


def read_run_logs(folder: Path) -> RunLogs:
    """Reads the logs of one run, whatever state it is in; what cannot be read is passed over."""
    heads = []
    sessions = []
    for file in sorted(folder.glob(LOG_FILES)):
        head, tail = _edges(file)
        times = [datetime.strptime(text, "%Y/%m/%d %H:%M:%S") for text in _TIME.findall(head) + _TIME.findall(tail)]
        if times:
            sessions.append((min(times), max(times)))
            heads.append(head)
    configs = sorted(folder.glob(DUMPED_CONFIGS))
    return RunLogs(tuple(sessions), _environment(heads[-1]) if heads else {}, _dumped_config(configs[-1]) if configs else {})


def _edges(file: Path) -> tuple[str, str]:
    """The first and the last part of a log; equal where it is short."""
    with open(file, "rb") as log:
        head = log.read(EDGE_BYTES)
        size = log.seek(0, 2)
        log.seek(max(0, size - EDGE_BYTES))
        tail = log.read()
    return head.decode(errors="replace"), tail.decode(errors="replace")


def _environment(head: str) -> dict[str, str]:
    found = {}
    for key, name in _ENVIRONMENT.items():
        match = re.search(rf"^\s+(?:- )?{re.escape(key)}: (.+)$", head, re.MULTILINE)
        if match and match[1] not in ("None", "False"):
            found[name] = match[1].split(" (")[0]
    gpus = [f"{name} ({number})" for number, name in _GPU.findall(head)]
    return {**found, "GPU": ", ".join(gpus)} if gpus else found


def _dumped_config(file: Path) -> dict[str, Any]:
    """The assignments of a dumped config; nothing of the file is executed."""
    try:
        module = ast.parse(file.read_text(encoding="utf-8"))
        return {node.targets[0].id: _literal(node.value) for node in module.body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    except (OSError, SyntaxError, ValueError):
        return {}


def _literal(node: ast.expr) -> Any:
    """The value of a literal in which mappings are also spelled ``dict(key=value)``.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Tuple | ast.Set):
        return tuple(_literal(item) for item in node.elts)
    return ast.literal_eval(node)
