"""Records of evaluations and analyses of encoders: where they are written, and which are kept."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from pretrain.distributed import comm
from pretrain.engine.work_dir import differing_keys
from pretrain.eval.encoders import RANDOM
from pretrain.results.method import dataset_name
from pretrain.results.store import RecordError, measurement, read_record, write_record

RANDOM_FOLDER = Path("work_dirs/readout")
METRICS = ("top1", "top5", "train_top1")
DATA_KEYS = ("source", "train_split", "test_split", "split", "train_images", "test_images", "images", "classes", "limit",
             "fingerprint")  # of a data set's record, those that values to be averaged have in common


def result_file(
    kind: str, file: str, encoder: Mapping[str, Any], data: Mapping[str, Any] | None, seed: int, variant: Iterable[str] = ()
) -> Path:
    """Where a record is written unless the user says where.

    Args:
        kind: of the method, or ``analysis_<name>``.
        file: the encoder's file as the user gave it, ``"random"``, or a config file.
        encoder: the encoder's config.
        data: the record of the data; None where none are read.
        seed: of the evaluation.
        variant: further words of the name.

    Returns:
        ``<checkpoint without suffix>.readout/<kind>[_<data set>][_<variant>].json`` beside the checkpoint; for a random
        encoder ``work_dirs/readout/random_<encoder>_seed<seed>.readout/...``, and for a config file
        ``work_dirs/readout/<config>.readout/...``. A limited training set is part of the name.
    """
    if file == RANDOM:
        options = "_".join(str(value) for key, value in encoder.items() if key != "type")
        name = "_".join(filter(None, ["random", str(encoder["type"]), options, f"seed{seed}"]))
        folder = RANDOM_FOLDER / f"{file_name(name)}.readout"
    elif Path(file).suffix == ".py":
        folder = RANDOM_FOLDER / f"{file_name(Path(file).stem)}.readout"
    else:
        folder = Path(file).with_suffix(".readout")
    words = [kind]
    if data is not None:
        words += [dataset_name(data),
                  *([] if data["limit"] is None else [f"{data['limit']}images_seed{seed}"])]
    return folder / f"{file_name('_'.join([*words, *variant]))}.json"


def file_name(text: str) -> str:
    """A text as part of a file's name: all but letters, digits and ``_.-`` becomes ``_``."""
    return re.sub(r"[^\w.-]+", "_", text)


def evaluated(identity: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The identity of an encoder that is evaluated with a seed, which of random encoders is their own."""
    if identity["method"].get("source") == RANDOM:
        return dict(identity)
    return {**identity, "repetition": {**identity["repetition"], "evaluation_seed": seed}}


def data_protocol(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a data set's record that belongs to the protocol, without names of files and folders."""
    options = {key: value for key, value in data["options"].items() if not isinstance(value, str)}
    return {**{key: data[key] for key in DATA_KEYS if key in data}, **({"options": options} if options else {})}


def accuracy_rows(stages: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any], protocol: str) -> list[dict[str, Any]]:
    """The accuracies of stages or blocks, bottom up, as measurements."""
    dataset = dataset_name(data)
    return [measurement(dataset, protocol, metric, found[metric], stage=stage)
            for stage, found in stages.items() for metric in METRICS if found.get(metric) is not None]


def record_result(
    path: Path, record: dict[str, Any], resume: bool, measure: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Measures, unless the file holds the finished result, and writes the record, in the first of the processes.

    Args:
        path: of the record.
        record: what is known before, see :func:`pretrain.results.store.new_record`.
        resume: whether a finished result of the same settings is kept.
        measure: returns what else belongs in the record, with its ``rows``; ``earlier_s`` is added to the duration.

    Raises:
        ValueError: the record cannot be written, or would overwrite something else.
    """
    check_writable(path)
    known = finished_result(path, record)
    if known is not None and resume:
        print_log(f"{path} is finished", logger="current")
        return known
    started = time.perf_counter()
    measured = dict(measure())
    seconds = time.perf_counter() - started + measured.pop("earlier_s", 0.0)
    record = {**record, **measured, "duration_s": round(seconds, 3)}
    if comm.rank() == 0:
        write_record(path, record)
        print_log(f"result written to {path}", logger="current")
    return record


def settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal for a record to be that of the same evaluation of the same weights."""
    return json.loads(json.dumps({
        **{key: record.get(key) for key in ("kind", "setting", "repetition", "protocol", "stages")},
        "method": record["method"]["key"],
        "sha256": (record.get("encoder_file") or {}).get("sha256"),
    }))


def finished_result(file: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that a file holds of the same evaluation as the record; None where there is no such file.

    Raises:
        ValueError: the file holds something else, which must not be overwritten; the settings that differ are named.
    """
    if not file.exists():
        return None
    try:
        known = dict(read_record(file).content)
    except RecordError as error:
        raise ValueError(f"{file} exists and is not a result; delete it, or choose another file with --out ({error})"
                         ) from error
    check_same_settings(settings_of(known), settings_of(record), f"{file} holds the result of an evaluation")
    return known


def check_same_settings(known: Mapping[str, Any], settings: Mapping[str, Any], what: str) -> None:
    """Compares the settings of a file with those asked for.

    Args:
        known: of the file, see :func:`settings_of`.
        settings: asked for.
        what: what the file holds, the message's beginning.

    Raises:
        ValueError: they differ; names the keys.
    """
    differing = differing_keys(known, settings)
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
        raise ValueError(f"{file} is not a regular file; choose another one with --out")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error}); choose another file with --out") from error
