"""The runs below some folders: of what, how far they came, what went wrong, on what and for how long they ran."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loco_det.ap_rows import METHOD_ORDER
from loco_det.evaluation.results import RESULTS_FILE, PretrainedBackbone, ResultsError, RunResults
from loco_det.html_report.blocks import spelled_seconds
from loco_det.html_report.run_logs import RunLogs, read_run_logs
from loco_det.html_report.step_logs import STEP_LOGS, last_error, what_stopped
from pretrain.checkpoint_files import checkpoint_files
from pretrain.methods import method_of_config, named_method
from pretrain.training_log import TrainingLog, read_training_log
from pretrain.work_dir import RECORD_NAME

KINDS = PRETRAINING, DETECTION, UNKNOWN = "pretraining", "detection", "unknown"
FINISHED, UNFINISHED, FAILED, DAMAGED = "finished", "unfinished", "failed", "damaged"
ERROR_FILE, RESULT_FILE, TIMING_FILE = "error.txt", "result.json", "timing.json"  # of a split: loco_det.experiment's


@dataclass(frozen=True)
class Run:
    """One work directory.

    Attributes:
        path: of the directory.
        kind: :data:`PRETRAINING`, :data:`DETECTION` or :data:`UNKNOWN`.
        method: label of the learning rule.
        data: name of the data set.
        state: :data:`FINISHED`, :data:`UNFINISHED`, :data:`FAILED` or :data:`DAMAGED`.
        progress: how far it came.
        seconds: how long it ran, as far as that is recorded.
        revision: of the source tree it ran from.
        config_sha256: fingerprint of what was run.
        config: its resolved config without what only says how it is carried out.
        logs: of the whole run, or of its last split.
        facts: names and values, for readers.
        problems: the short form and the whole text of every message.
        backbone: of a detector, the file it started from; None where there is none.
        splits: of a detector, result by number.
    """

    path: Path
    kind: str
    method: str
    data: str
    state: str
    progress: str
    seconds: float | None = None
    revision: str | None = None
    config_sha256: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    logs: RunLogs = field(default_factory=lambda: RunLogs((), {}, {}))
    facts: Sequence[tuple[str, str]] = ()
    problems: Sequence[tuple[str, str]] = ()
    backbone: PretrainedBackbone | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name


def find_runs(directories: Iterable[Path]) -> list[Run]:
    """Every work directory at or below some folders, each once, by kind and method, then as the folders are given.

    Raises:
        FileNotFoundError: a folder does not exist.
    """
    found: dict[Path, Run] = {}
    for directory in directories:
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory} is not a folder; pass work directories, or folders above several")
        for record in sorted(directory.rglob(RECORD_NAME)):
            if record.resolve() not in found:
                found[record.resolve()] = read_run(record.parent)
        names = {run.name for run in found.values()}
        for log in sorted((directory / STEP_LOGS).glob("*.log")):
            if log.stem not in names and not (directory / log.stem / RECORD_NAME).exists():
                found[log.resolve()] = _run_of_log(log)
    return sorted(found.values(), key=lambda run: (KINDS.index(run.kind), _method_order(run)))


def read_run(folder: Path) -> Run:
    """One work directory, whatever state it is in."""
    try:
        record = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
        config = record["config"]
        record["git_revision"] = str(record.get("git_revision") or "") or None
        if "protocol" in config and "pretrained" in config:
            return _detection(folder, record, config)
        if "rule" in config.get("model", {}):
            return _pretraining(folder, record, config)
    except Exception as error:  # whatever a damaged file may lead to
        message = f"{folder / RECORD_NAME} cannot be used ({type(error).__name__}: {error})"
        return Run(folder, UNKNOWN, "", "", DAMAGED, "unknown", problems=[(message, "")])
    return Run(folder, UNKNOWN, "", "", UNFINISHED, "neither a pretraining nor a detection experiment",
               revision=record.get("git_revision"), config=config)


def _pretraining(folder: Path, record: Mapping[str, Any], config: Mapping[str, Any]) -> Run:
    total = config["train_cfg"]["max_epochs"]
    state, progress, problems, logged = FINISHED, f"{total} of {total} epochs", [], ""
    if epochs_saved(folder) < total:
        state, progress, logged = _logged_progress(folder, total)
        state, problems = _problems(folder, state)
    logs, model = read_run_logs(folder), config["model"]
    dataset = config["train_dataloader"]["dataset"]
    place = _image_folder(logs) or dataset.get("data_root")
    image_size = _image_size(config)
    facts = [
        ("learning rule", method_of_config(config).label),
        ("encoder", spelled_options(model["encoder"])),
        ("decoders", spelled_options(model.get("decoder") or {})),
        ("epochs", str(total)),
        ("batch size", str(config["train_dataloader"]["batch_size"])),
        ("views", f"{image_size} px" if image_size else ""),
        ("optimizer", spelled_options(config["optim_wrapper"]["optimizer"])),
        ("temperature", str(model.get("temperature", ""))),
        ("precision", model.get("autocast") or "float32"),
        ("seed", str(config.get("randomness", {}).get("seed", "drawn"))),
        ("images", str(place)),
        ("last line of its log", logged),
    ]
    return Run(folder, PRETRAINING, facts[0][1], Path(str(place)).name, state, progress, logs.seconds,
               record.get("git_revision"), record.get("config_sha256"), config, logs, _filled(facts), problems)


def _detection(folder: Path, record: Mapping[str, Any], config: Mapping[str, Any]) -> Run:
    protocol, splits = config["protocol"], config["protocol"]["num_splits"]
    folders = [folder / f"split_{index}" for index in range(splits)]
    done = [split for split in folders if (split / RESULT_FILE).is_file()]
    errors = [split / ERROR_FILE for split in folders if (split / ERROR_FILE).is_file()]
    begun = [split.name for split in folders if split.is_dir() and split not in done]
    state, problems = FINISHED if len(done) == splits else UNFINISHED, []
    progress = f"{len(done)} of {splits} split{'s' * (splits != 1)}"
    if errors:
        texts = [(file.parent.name, file.read_text(encoding="utf-8", errors="replace")) for file in errors]
        problems = [(f"{split}: {_last_line(text)}", text) for split, text in texts]
        state = FAILED
    elif state != FINISHED:
        state, problems = _problems(folder, state)
    if state != FINISHED and begun:
        progress += f", begun: {', '.join(begun)}"
    backbone = None
    try:
        backbone = RunResults.read(folder / RESULTS_FILE).pretrained
    except ResultsError as error:
        if (folder / RESULTS_FILE).exists():
            problems = [*problems, (str(error), "")]
    logs = [read_run_logs(split) for split in folders]
    last = next((log for log in reversed(logs) if log.config), RunLogs((), {}, {}))
    train, data = config["train_cfg"], last.config.get("data") or config.get("data", {})
    facts = [
        ("backbone", named_method(config["pretrained"]["method"]).label),
        ("backbone file", f"{backbone.path} (SHA-256 {backbone.sha256[:12]}…)" if backbone else ""),
        ("encoder", spelled_options(config["model"]["backbone"]["encoder"])),
        ("frozen stages", str(config["model"]["backbone"].get("frozen_stages", ""))),
        ("protocol", spelled_options(protocol)),
        ("schedule", f"{train['max_iters']} iterations" if "max_iters" in train else f"{train.get('max_epochs')} epochs"),
        ("batch size", str(config["train_dataloader"]["batch_size"])),
        ("optimizer", spelled_options(config["optim_wrapper"]["optimizer"])),
        ("data", f"{data.get('root')} ({data.get('train_ann')}, {data.get('val_ann')})"),
    ]
    return Run(folder, DETECTION, facts[0][1], protocol["dataset"], state, progress, _split_seconds(folders, logs),
               record.get("git_revision"), record.get("config_sha256"), config, last, _filled(facts), problems, backbone)


def run_facts(run: Run) -> list[tuple[str, str]]:
    """All that is known of a run: its own facts, and when, on what and from which source it ran."""
    started = run.logs.sessions[0][0].isoformat(" ") if run.logs.sessions else ""
    environment = ", ".join(f"{key} {value}" for key, value in run.logs.environment.items())
    extra = [
        ("duration", spelled_seconds(run.seconds)),
        ("started" if run.kind == PRETRAINING else "last split started", started),
        ("git revision", run.revision or "not recorded"),
        ("machine and versions", environment or "not recorded"),
    ]
    return [*run.facts, *_filled(extra)]


def spelled_options(options: Any) -> str:
    """``{"type": "AdamW", "lr": 0.1}`` as ``AdamW (lr=0.1)``."""
    if not isinstance(options, Mapping):
        return str(options)
    rest = ", ".join(f"{key}={value}" for key, value in options.items() if key != "type")
    name = str(options.get("type", ""))
    return f"{name} ({rest})" if name and rest else name or rest


def _split_seconds(folders: Sequence[Path], logs: Sequence[RunLogs]) -> float | None:
    """Training and evaluation of all splits, as recorded, or else from the first to the last line of their logs."""
    total = None
    for folder, log in zip(folders, logs, strict=True):
        try:
            timing = json.loads((folder / TIMING_FILE).read_text(encoding="utf-8"))
            seconds = timing["training_seconds"] + timing["evaluation_seconds"]
        except (OSError, ValueError, KeyError, TypeError):
            seconds = log.seconds
        if seconds is not None:
            total = (total or 0.0) + seconds
    return total


def epochs_saved(folder: Path) -> int:
    """The last epoch that a pretraining has a checkpoint of or after; 0 without checkpoints."""
    files = checkpoint_files(folder)
    return int(re.match(r"epoch_(\d+)", files[0].name)[1]) if files else 0


def _logged_progress(folder: Path, total: int) -> tuple[str, str, str]:
    """State, progress and the last line of its log of a pretraining that has no checkpoint of its last epoch."""
    try:
        log = read_training_log(folder)
    except ValueError:
        return UNFINISHED, f"{epochs_saved(folder)} of {total} epochs", "nothing logged"
    done, saved = min(_epochs_logged(log), total), epochs_saved(folder)
    last = f"epoch {log.records[-1]['epoch']}, iteration {log.records[-1]['iter']}"
    if checkpoint_files(folder):
        behind = f" logged, last checkpoint of epoch {saved}" if done > saved else ""
        return UNFINISHED, f"{max(done, saved)} of {total} epochs{behind}", last
    if done == total:  # and its checkpoints were deleted
        return FINISHED, f"all {total} epochs logged, checkpoint not here", last
    return UNFINISHED, f"{done} of {total} epochs{' logged, checkpoint not here' if done else ''}", last


def _epochs_logged(log: TrainingLog) -> int:
    """Full epochs, one whose remaining iterations are too few to be logged again among them."""
    progress = [0.0, *log.progress()]
    interval = progress[-1] - progress[-2] if len(progress) > 2 else 0.0
    return math.floor(max(progress[-1], progress[-1] + interval - 1e-6))


def _problems(folder: Path, state: str) -> tuple[str, list[tuple[str, str]]]:
    """State and messages of a run, from what it printed where that was kept."""
    message, tail = what_stopped(folder)
    return (FAILED, [(message, tail)]) if message else (state, [])


def _run_of_log(log: Path) -> Run:
    """A step of the demo that ended before it had claimed its work directory."""
    message, tail = last_error(log)
    kind = PRETRAINING if log.stem.startswith("pretrain") else DETECTION
    method = named_method(log.stem.rpartition("_")[2]).label
    return Run(log.parent.parent / log.stem, kind, method, "", FAILED if message else UNFINISHED, "nothing done",
               problems=[(message, tail)] if message else [])


def _method_order(run: Run) -> int:
    """The place of a run's method among those that tables have an order of."""
    labels = [named_method(name).label for name in METHOD_ORDER]
    return labels.index(run.method) if run.method in labels else len(labels)


def _image_size(config: Mapping[str, Any]) -> int | None:
    """Side of the views that a pretraining sees; None where its config does not say."""
    preprocessor = config["model"].get("data_preprocessor") or config.get("data_preprocessor") or {}
    views = config["train_dataloader"]["dataset"].get("views") or preprocessor.get("views") or preprocessor
    return views.get("size")


def image_folder(run: Run) -> str | None:
    """Where a pretraining's images were; None where that is not logged."""
    return _image_folder(run.logs)


def _image_folder(logs: RunLogs) -> str | None:
    return logs.config.get("train_dataloader", {}).get("dataset", {}).get("data_root")


def image_size(run: Run) -> int | None:
    """Side of the views of a pretraining in pixels; None where its config does not say."""
    return _image_size(run.config)


def _filled(facts: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in facts if value not in ("", "None")]


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
