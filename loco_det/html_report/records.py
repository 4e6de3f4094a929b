"""Readouts and analyses below some folders, each with what a report tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.methods import method_of_record
from pretrain.readout.runs import KINDS, READOUT_SUFFIX, find_runs

ANALYSIS = "analysis_"


@dataclass(frozen=True)
class Record:
    """A readout or an analysis.

    Attributes:
        file: whose content it is.
        content: as it was written.
        kind: for readers.
        method: what was read out, for readers.
        data: name of the data set; empty where there is none.
        accuracy: top-1 in percent after the last stage or block; None of what has none.
        seconds: how long it took; None where that is not recorded.
        device: of torch; empty where that is not recorded.
        revision: of the source tree; None where that is not recorded.
        is_analysis: whether it is an analysis.
        is_decoupled: whether the encoder was pretrained in decoupled blocks.
    """

    file: Path
    content: Mapping[str, Any]
    kind: str
    method: str
    data: str
    accuracy: float | None
    seconds: float | None
    device: str
    revision: str | None
    is_analysis: bool
    is_decoupled: bool


def find_records(directories: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """Every readout and analysis below some folders, each once, and a line about each that is damaged.

    What is no such file is passed over.
    """
    found: dict[Path, Record] = {}
    problems: dict[Path, str] = {}
    for directory in directories:
        for file in sorted(directory.rglob("*.json")):
            place = file.resolve()
            if file.parent.suffix != READOUT_SUFFIX or place in found or place in problems:
                continue
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                if _is_record(content):
                    found[place] = read_record(file, content)
            except Exception as error:  # whatever a damaged file may lead to
                reason = " ".join(str(error).split())
                problems[place] = reason if str(file) in reason else f"{file} is damaged ({type(error).__name__}: {reason})"
    return list(found.values()), list(problems.values())


def read_record(file: Path, content: Mapping[str, Any]) -> Record:
    """What a report tells of a readout or an analysis.

    Raises:
        Exception: of whatever kind, where the content is damaged.
    """
    is_analysis = content["kind"].startswith(ANALYSIS)
    if not is_analysis:
        find_runs([file])  # refuses what no table could take
    encoder, data = content.get("encoder") or {}, content.get("data") or {}
    meta = encoder.get("meta")
    ends = list((content.get("stages") or {}).values()) or content.get("blocks") or []
    revision, seconds = content.get("git_revision"), content.get("duration_s")
    return Record(
        file=file,
        content=content,
        kind=KINDS.get(content["kind"], content["kind"].removeprefix(ANALYSIS)),
        method=str(content.get("method") or (method_of_record(meta).label if meta else encoder.get("file", ""))),
        data=str(data.get("root") or data.get("source") or ""),
        accuracy=float(ends[-1]["top1"]) if ends else None,
        seconds=None if seconds is None else float(seconds),
        device=str(content.get("device") or ""),
        revision=str(revision) if revision else None,
        is_analysis=is_analysis,
        is_decoupled="decoupled" in json.dumps(meta.get("rule")) if meta else False,
    )


def _is_record(content: Any) -> bool:
    kind = content.get("kind") if isinstance(content, dict) else None
    return isinstance(kind, str) and (kind in KINDS or kind.startswith(ANALYSIS))
