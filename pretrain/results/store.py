"""The record of a run: one JSON file that says what was trained or evaluated, how, and what was measured; and its finder.

Pretraining, detection, evaluations of features and analyses write the same format: the identity of what was trained
(:mod:`pretrain.results.method`), the command line, revision, versions and machine, the duration, and measurements as flat
rows ``dataset, protocol, stage, split, metric, value``, with ``class_name`` where they are of one class. A pretraining's and
a detection experiment's record is the ``run.json`` of its work directory, a split's is the ``run.json`` in its folder.

:func:`read_rows` puts the rows of all records below some folders into one pandas DataFrame. Nothing in a folder is executed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmengine
import pandas as pd
import torch
import torchvision

from pretrain import __version__
from pretrain.distributed import comm
from pretrain.encoders import encoder_label
from pretrain.engine.work_dir import git_revision, write_json
from pretrain.results.files import FORMAT, RecordError, no_results, record_files
from pretrain.results.method import leaves, plain_data, shown_method, unique_labels

VERSION = 1
KINDS = PRETRAINING, DETECTION, EVALUATION, ANALYSIS = "pretraining", "detection", "evaluation", "analysis"
KEYS = ("kind", "method", "setting", "repetition", "protocol", "rows")  # that every record has
REPETITION = ("seed", "split", "evaluation_seed")
GROUP = ("method_key", "setting", "dataset", "protocol", "protocol_options", "stage", "class_name", "metric")
"""Columns of :func:`read_rows` that values to be averaged have in common; they differ in :data:`REPETITION` alone."""


@dataclass(frozen=True)
class Record:
    """A record that was read.

    Attributes:
        path: its file.
        content: see :func:`new_record`.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return self.content["kind"]

    @property
    def method(self) -> Mapping[str, Any]:
        """What was trained, see :mod:`pretrain.results.method`."""
        return self.content["method"]

    @property
    def setting(self) -> Mapping[str, Any]:
        """What it was trained in."""
        return self.content["setting"]


def new_record(
    kind: str,
    identity: Mapping[str, Any],
    protocol: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]] = (),
    **content: Any,
) -> dict[str, Any]:
    """A record of what begins now.

    Args:
        kind: one of :data:`KINDS`.
        identity: ``method``, ``setting`` and ``repetition`` of the pretraining.
        protocol: what values must have in common to be averaged, beside the identity: ``name`` and options.
        rows: measurements, see :func:`measurement`.
        content: whatever else belongs in it, as plain data.

    Returns:
        Plain data: ``format``, ``version``, ``kind``, ``method``, ``setting``, ``repetition``, ``protocol``, ``argv`` (the
        command line), ``processes``, ``git_revision``, ``versions``, ``machine``, ``started`` (ISO 8601, UTC),
        ``duration_s`` (None until it ends), the further content, and ``rows``.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        **{part: identity[part] for part in ("method", "setting", "repetition")},
        "protocol": dict(protocol),
        "argv": list(sys.argv),
        "processes": comm.world_size(),
        "git_revision": git_revision(),
        "versions": versions(),
        "machine": machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "duration_s": None,
        **content,
        "rows": list(rows),
    }


def measurement(
    dataset: str, protocol: str, metric: str, value: float | None, *, stage: str | None = None, split: int | None = None,
    class_name: str | None = None,
) -> dict[str, Any]:
    """A row of a record; None stands for a value that does not exist, such as the AP of objects that no image has.

    Values that are not finite become None.
    """
    row = {"dataset": dataset, "protocol": protocol, "stage": stage, "split": split, "metric": metric,
           "value": None if value is None or not math.isfinite(value) else float(value)}
    return row if class_name is None else {**row, "class_name": class_name}


def write_record(path: str | Path, record: Mapping[str, Any]) -> None:
    """Writes a record whole or not at all; the folder is made."""
    write_json(path, record)


def read_record(path: str | Path) -> Record:
    """Reads a record.

    Raises:
        RecordError: it cannot be read, is not a record, is damaged, or of a newer format.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}); check its permissions or leave it out") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is damaged ({error}); run its command again, or leave it out") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RecordError(f"{path} is not a record of this project; leave it out")
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise RecordError(f"{path} has version {content.get('version')!r} of the format, but this package knows up to "
                          f"{VERSION}; update the package, or leave it out")
    record = Record(path, content)
    try:
        _check(record)
    except Exception as error:  # whatever damage may lead to
        raise RecordError(f"{path} is damaged ({type(error).__name__}: {error}); run its command again, or leave it out"
                          ) from error
    return record


def find_records(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Record], list[str]]:
    """Reads records: files as they are given, and of folders every one below.

    Returns:
        Records in the order of the arguments, those of a folder sorted by path, each file once; and a warning for each file
        that could not be used. JSON files of other kinds in folders are skipped, unless they are called ``run.json``.

    Raises:
        RecordError: a path does not exist, or a file that is given cannot be used.
    """
    records: dict[Path, Record] = {}
    warnings: dict[Path, str] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise RecordError(f"{path} does not exist; pass work directories, or folders above several")
        if path.is_file():
            records.setdefault(path.resolve(), read_record(path))
            continue
        for file in record_files(path):
            place = file.resolve()
            if place in records or place in warnings:
                continue
            try:
                records[place] = read_record(file)
            except RecordError as error:
                warnings[place] = str(error)
    return list(records.values()), list(warnings.values())


def read_rows(paths: Iterable[str | os.PathLike[str]]) -> tuple[pd.DataFrame, list[Record], list[str]]:
    """The measurements of all records below some folders.

    Args:
        paths: records, or folders above several.

    Returns:
        One row a measurement, see :func:`frame_of`; the records; and warnings, which name what could not be used.

    Raises:
        RecordError: as :func:`find_records`, or there is no record at all.
    """
    paths = list(paths)
    records, warnings = find_records(paths)
    if not records:
        raise no_results(paths, *warnings)
    frame, conflicts = frame_of(records)
    return frame, records, [*warnings, *conflicts]


def frame_of(records: Sequence[Record]) -> tuple[pd.DataFrame, list[str]]:
    """The measurements of records as one table.

    Args:
        records: in any order.

    Returns:
        A row for each measurement: ``path``, ``kind``, ``method`` (its label, unique among these records), ``method_key``,
        ``encoder``, ``epochs``, ``setting`` and ``protocol_options`` (as JSON), ``seed``, ``split``, ``evaluation_seed``,
        ``dataset``, ``protocol``, ``stage``, ``last_stage`` (bool), ``class_name``, ``metric``, ``value``. Splits of a
        detection experiment that are not finished have rows without a value. Copies of a measurement count once. And a
        warning for each two records that claim the same repetition of the same method and setting with different values:
        that repetition has no value.
    """
    labels = unique_labels(record.method for record in records)
    folders = {record.path.resolve().parent for record in records}
    rows = [row for record in records for row in _rows_of(record, labels, folders)]
    columns = ["path", "kind", "method", *GROUP, "encoder", "epochs", "last_stage", *REPETITION, "value"]
    frame = pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))
    frame = frame.astype({"value": float, "last_stage": bool})
    return _without_conflicts(frame)


def tidy(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with every option of their setting and protocol in a column of its own, for a notebook."""
    parts = [frame.drop(columns=["setting", "protocol_options", "last_stage"])]
    for name, prefix in (("setting", "setting"), ("protocol_options", "protocol")):
        flat = [{f"{prefix}.{key}": value for key, value in leaves(json.loads(text))} for text in frame[name]]
        parts.append(pd.DataFrame(flat, index=frame.index))
    return pd.concat(parts, axis="columns")


def values_by_repetition(group: pd.DataFrame) -> pd.DataFrame:
    """The values of one group: those of one seed and split are averaged first, as of several evaluations of one encoder."""
    return group.groupby(["seed", "split"], dropna=False, sort=True)["value"].mean().reset_index()


def canonical(content: Mapping[str, Any]) -> str:
    """Nested plain data as JSON, equal where the data are."""
    return json.dumps(plain_data(content), sort_keys=True)


def epochs_label(setting: Mapping[str, Any]) -> str:
    """``100``, ``50 of 100`` of a pretraining that was not finished; empty without pretraining."""
    epochs, done = setting.get("epochs"), setting.get("epochs_done")
    return "" if epochs is None else str(epochs) if done is None else f"{done} of {epochs}"


def versions() -> dict[str, str]:
    """Versions of what computes results."""
    modules = dict(torch=torch, torchvision=torchvision, mmengine=mmengine)
    return {"loco-det": __version__, "python": platform.python_version(),
            **{name: str(module.__version__) for name, module in modules.items()}}


def machine() -> str:
    """The processor with the cores that this process may use, and the GPUs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join([f"{name}, {cores} core{'s' * (cores != 1)}", *gpus])


def _check(record: Record) -> None:
    """Validates a record; raises what using it would raise later."""
    content, method = record.content, record.method
    for key in KEYS:
        content[key]
    if content["kind"] not in KINDS:
        raise ValueError(f"kind is {content['kind']!r}")
    for key in ("key", "label"):
        if not isinstance(method[key], str):
            raise TypeError(f"{key} of the method is {method[key]!r}")
    shown_method(method)
    content["protocol"]["name"]
    for row in _rows_of(record, {method["key"]: method["label"]}, set()):
        value = row["value"]
        if isinstance(value, bool) or not (value is None or isinstance(value, int | float) and math.isfinite(value)):
            raise ValueError(f"a value of {row['metric']} is {value!r}")
        for name in ("dataset", "protocol", "metric"):
            if not isinstance(row[name], str):
                raise TypeError(f"{name} of a measurement is {row[name]!r}")
        for name in REPETITION:
            if isinstance(row[name], bool) or not isinstance(row[name], int | None):
                raise TypeError(f"{name} is {row[name]!r}")


def _rows_of(record: Record, labels: Mapping[str, str], folders: set[Path]) -> Iterator[dict[str, Any]]:
    content = record.content
    encoder = record.setting.get("encoder")
    common = {
        "path": str(record.path), "kind": record.kind, "method": labels[record.method["key"]],
        "method_key": record.method["key"], "setting": canonical(record.setting),
        "encoder": "" if encoder is None else encoder_label(encoder), "epochs": epochs_label(record.setting),
        "protocol_options": canonical(content["protocol"]),
        **{name: content["repetition"].get(name) for name in REPETITION},
    }
    rows = [*content["rows"], *_unfinished(record, folders)]
    last = {row["metric"]: row.get("stage") for row in rows}
    for row in rows:
        chosen = {name: row.get(name) for name in ("dataset", "protocol", "stage", "class_name", "metric", "value")}
        split = row.get("split")
        yield {**common, **chosen, "last_stage": row.get("stage") == last[row["metric"]],
               "split": common["split"] if split is None else split}


def _unfinished(record: Record, folders: set[Path]) -> Iterator[dict[str, Any]]:
    """Rows without a value for the splits of a detection experiment that have no record of their own."""
    content, folder = record.content, record.path.resolve().parent
    for split in range(content.get("num_splits", 0)):
        if folder / f"split_{split}" not in folders:
            for task in content["tasks"]:
                yield measurement(content["dataset"], content["protocol"]["name"], f"{task}_AP", None, split=split)


def _without_conflicts(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    keys = [*GROUP, *REPETITION]
    alike = frame.groupby(keys, dropna=False, sort=False)
    known = alike["value"].transform("count")
    frame = frame[(known == 0) | frame["value"].notna()]
    frame = frame[~frame.duplicated([*keys, "value"])]
    conflict = frame.duplicated(keys, keep=False)
    warnings = {}
    for _, rows in frame[conflict].groupby(keys, dropna=False, sort=False):
        first, other = rows["path"].iloc[:2]
        row = rows.iloc[0]
        warnings.setdefault((first, other), (
            f"{first} and {other} claim the same repetition of {row['method']} on {row['dataset']} with different values "
            f"({row['metric']}: {rows['value'].iloc[0]:g} and {rows['value'].iloc[1]:g}): neither is used, leave one out"))
    frame = frame.assign(value=frame["value"].mask(conflict))
    return frame[~frame.duplicated(keys)].reset_index(drop=True), list(warnings.values())
