"""What a pretraining logged, read back from its work directory."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mmengine.logging import print_log

from pretrain.results.files import SCALARS
from pretrain.results.store import PRETRAINING, find_records


@dataclass(frozen=True)
class TrainingLog:
    """The scalars of one run, as of the last time that each iteration was run.

    Attributes:
        work_dir: of the run.
        records: in ascending order of ``iter``, each with ``iter`` and ``epoch``, both counted from 1, means over the last
            iterations (as many as lie between two records, unless a config says otherwise): ``loss``, ``loss_<unit>``,
            ``accuracy_<unit>`` (0 to 1), ``kept_positive_<unit>``, ``kept_negative_<unit>``; and ``lr``,
            ``images_per_second``. Of the monitor, ``knn_<stage>`` (0 to 1), maybe alone.
    """

    work_dir: Path
    records: Sequence[Mapping[str, Any]]

    @property
    def epochs_done(self) -> int:
        """The last epoch that has a record."""
        return self.records[-1]["epoch"]

    def progress(self) -> list[float]:
        """Epochs that were done at every record.

        The log does not say how many iterations an epoch has; the distance between the first records of two epochs gives it.
        During the first epoch it is unknown: then the last record counts as the epoch's end.
        """
        firsts = {record["epoch"]: record["iter"] for record in reversed(self.records)}
        (last, last_iter), (first, first_iter) = next(iter(firsts.items())), list(firsts.items())[-1]
        fewest = math.ceil(max(record["iter"] / record["epoch"] for record in self.records) - 1e-9)
        iterations = fewest if first == last else max(fewest, round((last_iter - first_iter) / (last - first)))  # an epoch
        return [min(record["iter"] / iterations, record["epoch"]) for record in self.records]

    def units(self, prefix: str = "loss_") -> list[str]:
        """Names of the units that have a scalar ``<prefix><unit>``, from the bottom up."""
        return list(dict.fromkeys(
            key.removeprefix(prefix) for record in self.records for key in record if key.startswith(prefix)
        ))

    def metrics(self, unit: str) -> list[str]:
        """What was logged of a unit, the loss first: ``accuracy`` stands for ``accuracy_<unit>``."""
        names = dict.fromkeys(key for record in self.records for key in record if key.endswith(f"_{unit}"))
        return sorted((name.removesuffix(f"_{unit}") for name in names), key=lambda name: (name != "loss", name))

    def last_epoch_mean(self, name: str) -> float:
        """Mean of a scalar's records in the last epoch that has any."""
        return list(self.epoch_means(name).values())[-1]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Epochs done and values of a scalar, where it was logged."""
        found = [(x, record[name]) for x, record in zip(self.progress(), self.records, strict=True) if name in record]
        return [x for x, _ in found], [value for _, value in found]

    def epoch_means(self, name: str) -> dict[int, float]:
        """Mean of a scalar's records in every epoch that has any, by epoch."""
        values = defaultdict(list)
        for record in self.records:
            if name in record:
                values[record["epoch"]].append(record[name])
        return {epoch: fmean(each) for epoch, each in values.items()}


def find_training_logs(paths: Iterable[str | Path]) -> list[Path]:
    """Work directories of pretrainings: those that are given, and of other folders all below.

    Below folders only what has the record (``run.json``) of a pretraining counts, so that detectors' logs are skipped.

    Returns:
        Each directory once, in the order of the arguments, those below a folder sorted.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path is not a folder, or there is no log in it or below.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"work directory {path} does not exist; pass one that tools/pretrain.py wrote")
        below = training_logs_below(path)
        if not below:
            raise ValueError(f"{path} has no training log ({SCALARS}), nor has a work directory below; pass the work "
                             "directory of a pretraining that has run for at least one interval of logging")
        for work_dir in below:
            found.setdefault(work_dir.resolve(), work_dir)
    return list(found.values())


def training_logs_below(folder: Path) -> list[Path]:
    """As :func:`find_training_logs`, of one folder; empty where there are none."""
    if has_training_log(folder):
        return [folder]
    if not folder.is_dir():
        return []
    records, warnings = find_records([folder])
    for warning in warnings:
        print_log(f"left out: {warning}", logger="current")
    folders = [record.path.parent for record in records if record.kind == PRETRAINING]
    return [each for each in folders if has_training_log(each)]


def has_training_log(folder: Path) -> bool:
    """Whether a pretraining has logged anything in a work directory."""
    return any(_read_lines(file) for file in folder.glob(SCALARS))


def read_training_log(work_dir: str | Path) -> TrainingLog:
    """Reads the log of a pretraining.

    What was run again after a resume replaces what the interrupted run had logged of it. A last line that was cut off when
    the run was killed is skipped.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: nothing was logged there.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f"work directory {work_dir} does not exist; pass one that tools/pretrain.py wrote")
    records: dict[int, dict[str, Any]] = {}
    for file in sorted(work_dir.glob(SCALARS)):  # named by the time of their start
        started = _read_lines(file)
        if started:  # what an interrupted run did beyond its last checkpoint is undone
            records = {step: record for step, record in records.items() if step < started[0]["iter"]}
        for record in started:  # the monitor has a line of its own
            records[record["iter"]] = records.get(record["iter"], {}) | record
    if not records:
        raise ValueError(f"{work_dir} has no training log ({SCALARS}); pass the work directory of a pretraining that has "
                         "run for at least one interval of logging")
    return TrainingLog(work_dir, [records[step] for step in sorted(records)])


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Records of training with their numbers, in the order of the lines; anything else is skipped."""
    lines: list[dict[str, Any]] = []
    if not file.is_file():  # such as a named pipe
        return lines
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            record = {key: value for key, value in record.items() if type(value) in (int, float)}
            trained = any(key == "loss" or key.startswith("knn_") for key in record)
            if trained and _is_count(record.get("iter")) and _is_count(record.get("epoch")):  # not an evaluation's
                lines.append(record)
    return lines


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1
