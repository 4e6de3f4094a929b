"""What one pretrained backbone scored on one data set, over several splits: ``results.json``.

A detection experiment writes the file after every split, so that it can resume, and the report
reads it. Precisions are in points, 0 to 100. ``null`` stands where an evaluation has no value
because the data hold no such object (pycocotools says -1, cityscapesscripts NaN), and is left out
of every mean. Nothing in the file depends on when or how fast a split was run.

This module needs the standard library only: reading results must not wait for torch.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.work_dir import write_text

__all__ = [
    "METRICS",
    "OFFICIAL",
    "OFFICIAL_METRICS",
    "RESULTS_FILE",
    "TASKS",
    "MeanStd",
    "PretrainedBackbone",
    "ResultsError",
    "RunResults",
    "SplitResult",
    "mean_std",
]

RESULTS_FILE = "results.json"
SCHEMA = 2
TASKS = ("bbox", "segm")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # COCO's, of each task
OFFICIAL = "official"  # the data set's own evaluation of masks beside COCO's: cityscapesscripts'
OFFICIAL_METRICS = ("AP", "AP50")


class ResultsError(ValueError):
    """Results that are missing, cannot be read or contradict themselves; one line of text."""


class MeanStd(NamedTuple):
    """Average over splits and sample standard deviation, each None where it is not defined."""

    mean: float | None
    std: float | None


def mean_std(values: Iterable[float | None]) -> MeanStd:
    """Mean and sample standard deviation (n - 1) of the values that are not None.

    Args:
        values: Finite numbers, or None for a value that does not exist.

    Returns:
        The mean, None without values; the deviation, None with fewer than two values.

    Raises:
        ValueError: If a value is NaN or infinite.
    """
    known = [float(value) for value in values if value is not None]
    if not all(map(math.isfinite, known)):
        raise ValueError(f"mean_std: values must be finite, got {known}")
    mean = statistics.mean(known) if known else None  # exact: equal values average to themselves
    return MeanStd(mean, statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class PretrainedBackbone:
    """The checkpoint that a detector started from.

    Attributes:
        path: Where it was read.
        sha256: Hash of the file.
        rule: The learning rule it was trained with, if known.
        epochs: For how many epochs, if known.

    Raises:
        ValueError: If a field has an impossible value.
    """

    path: str
    sha256: str
    rule: str | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        _check_text(self, "path", "sha256")
        _check_text(self, "rule", optional=True)
        if self.epochs is not None:
            _check_integer("epochs", self.epochs, 0)


@dataclass(frozen=True)
class SplitResult:
    """What one split's detector scored.

    Attributes:
        bbox: Box precision: exactly the keys of :data:`METRICS`, in points 0 to 100 or None.
        segm: Mask precision, likewise.
        official: What the data set's own evaluation says of the masks: exactly the keys of
            :data:`OFFICIAL_METRICS`, in points 0 to 100 or None; None where the set has no other
            evaluation than COCO's.
        num_train_images: How many images the detector was trained on.
        image_ids_sha256: Hash of the list of their ids, None where they have none.
        num_val_images: How many images it was evaluated on.
        val_sha256: Hash of the annotations that it was evaluated on.
        seed: Seed of the split and of its training.

    Raises:
        ValueError: If a key lacks or is unknown, or a value is out of range or not finite.
    """

    bbox: Mapping[str, float | None]
    segm: Mapping[str, float | None]
    official: Mapping[str, float | None] | None
    num_train_images: int
    image_ids_sha256: str | None
    num_val_images: int
    val_sha256: str
    seed: int

    def __post_init__(self) -> None:
        for task in TASKS:
            object.__setattr__(self, task, _check_points(task, getattr(self, task), METRICS))
        if self.official is not None:
            official = _check_points(OFFICIAL, self.official, OFFICIAL_METRICS)
            object.__setattr__(self, OFFICIAL, official)
        _check_text(self, "image_ids_sha256", optional=True)
        _check_text(self, "val_sha256")
        _check_integer("num_train_images", self.num_train_images, 1)
        _check_integer("num_val_images", self.num_val_images, 1)
        _check_integer("seed", self.seed)


@dataclass
class RunResults:
    """One method on one data set: what was asked for and what is finished.

    Attributes:
        method: Name of the pretraining: random, supervised, simclr, gim, loco or any other.
        dataset: Name of the data set and protocol: coco, cityscapes, coco10k, coco1k or any other.
        encoder: Registered name of the encoder: resnet50, shufflenet_v2_50, presnet50 or any other.
        config: Path of the detector's configuration.
        config_sha256: Hash of the resolved configuration.
        pretrained: The checkpoint of the backbone; None for random initialisation.
        requested_splits: Numbers of the splits that make the run complete.
        splits: Results of the finished ones, by number.
        source: File that the results were read from; not part of the results.

    Raises:
        ValueError: If a field has an impossible value.
    """

    method: str
    dataset: str
    encoder: str
    config: str
    config_sha256: str
    pretrained: PretrainedBackbone | None
    requested_splits: list[int]
    splits: dict[int, SplitResult] = field(default_factory=dict)
    source: Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise ``ValueError`` if a field has an impossible value."""
        _check_text(self, "method", "dataset", "encoder", "config", "config_sha256")
        requested = self.requested_splits
        for split in requested:
            _check_integer("requested_splits", split, 0)
        if not requested or len(set(requested)) < len(requested):
            raise ValueError(f"requested_splits must be distinct, at least one: {requested}")
        foreign = sorted(set(self.splits) - set(requested))
        if foreign:
            raise ValueError(f"splits {foreign} have results but are not in requested_splits")

    @property
    def pretraining_epochs(self) -> int | None:
        """For how many epochs the backbone was pretrained; None where it was not, or if unknown."""
        return None if self.pretrained is None else self.pretrained.epochs

    @property
    def has_official(self) -> bool:
        """Whether the data set has an evaluation of its own beside COCO's."""
        return any(split.official is not None for split in self.splits.values())

    @property
    def complete(self) -> bool:
        """Whether every requested split is finished."""
        return len(self.splits) == len(self.requested_splits)

    def mean_std(self, task: str, metric: str = "AP") -> MeanStd:
        """Mean and deviation of a task's metric over the finished splits, in points."""
        return mean_std(self.precisions(task, metric))

    def precisions(self, task: str, metric: str = "AP") -> list[float | None]:
        """What the finished splits scored, in points.

        Args:
            task: One of :data:`TASKS`, or :data:`OFFICIAL`.
            metric: One of :data:`METRICS`, or of :data:`OFFICIAL_METRICS`.
        """
        return [(getattr(split, task) or {}).get(metric) for split in self.splits.values()]

    def summary(self) -> dict[str, Any]:
        """Mean and deviation of every metric, and the number of finished splits.

        Returns:
            ``{"bbox": {"AP": {"mean": …, "std": …}, …}, "segm": {…}, "splits": n}``, and
            ``"official"`` where the data set has an evaluation of its own.
        """
        metrics = dict.fromkeys(TASKS, METRICS)
        if self.has_official:
            metrics[OFFICIAL] = OFFICIAL_METRICS
        averages = {
            task: {name: self.mean_std(task, name)._asdict() for name in names}
            for task, names in metrics.items()
        }
        return {**averages, "splits": len(self.splits)}

    def to_json(self) -> str:
        """The text of ``results.json``: standard JSON, splits ascending, with the summary.

        Raises:
            ValueError: If a field has an impossible value.
        """
        self.validate()
        record = {
            "schema": SCHEMA,
            "method": self.method,
            "dataset": self.dataset,
            "encoder": self.encoder,
            "config": self.config,
            "config_sha256": self.config_sha256,
            "pretrained": None if self.pretrained is None else asdict(self.pretrained),
            "requested_splits": list(self.requested_splits),
            "splits": {str(i): asdict(self.splits[i]) for i in sorted(self.splits)},
            "summary": self.summary(),
        }
        return json.dumps(record, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunResults:
        """Read the text of ``results.json``. The summary in it is computed anew, never believed.

        Raises:
            ValueError: If the text is not standard JSON or not such a record; says what is wrong.
        """
        record = _object(json.loads(text, parse_constant=_refuse_constant), "the file")
        schema = record.pop("schema", None)
        if schema == 1:
            raise ValueError(
                "it is of schema 1, from before encoder and pretraining epochs were recorded: "
                "delete it or use another --work-dir"
            )
        if schema != SCHEMA:
            raise ValueError(f'it has no "schema": {SCHEMA}')
        record.pop("summary", None)
        pretrained = record.get("pretrained")
        if pretrained is not None:
            record["pretrained"] = _build(PretrainedBackbone, pretrained, '"pretrained"')
        if not isinstance(record.get("requested_splits"), list):
            raise ValueError('"requested_splits" is not a list')
        record["splits"] = {
            _split_number(key): _build(SplitResult, split, f"split {key}")
            for key, split in _object(record.get("splits"), '"splits"').items()
        }
        return _build(cls, record, "the file", skip=("source",))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write ``results.json``; the file is replaced whole or not at all. Makes folders.

        Raises:
            ValueError: If a field has an impossible value; an existing file is left alone.
        """
        write_text(path, self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunResults:
        """Read a file of results and remember it as ``source``.

        Raises:
            ResultsError: If it cannot be read or is no such file; names it, the reason, the mend.
        """
        path = Path(path)
        try:
            results = cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultsError(
                f"{path} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        except ValueError as error:
            raise ResultsError(
                f"{path} is not a results file of tools/train_det.py ({error}); "
                "run that experiment again, or leave its folder out"
            ) from error
        results.source = path
        return results


def _check_text(record: Any, *names: str, optional: bool = False) -> None:
    for name in names:
        value = getattr(record, name)
        if optional and value is None:
            continue
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError(f"{name} must be one line of text, got {value!r}")


def _check_integer(name: str, value: Any, least: float = -math.inf) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        bound = "" if least == -math.inf else f" of at least {least}"
        raise ValueError(f"{name} must be an integer{bound}, got {value!r}")


def _check_points(task: str, values: Any, names: tuple[str, ...]) -> dict[str, float | None]:
    """A copy of a task's metrics in the order of ``names``, all there and all in 0 to 100."""
    if not isinstance(values, Mapping) or set(values) != set(names):
        raise ValueError(f"{task} must have exactly the keys {', '.join(names)}")
    return {
        name: None if values[name] is None else _check_precision(f"{task} {name}", values[name])
        for name in names
    }


def _check_precision(name: str, value: Any) -> float:
    """A finite number of points as a plain float; NumPy's scalars are numbers too."""
    try:
        number = math.nan if isinstance(value, str | bool) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or not 0 <= number <= 100:
        raise ValueError(
            f"{name} must be a finite number from 0 to 100, or null where undefined, got {value!r}"
        )
    return number


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not a JSON object")
    return value


def _build(cls: type, value: Any, where: str, skip: tuple[str, ...] = ()) -> Any:
    """A dataclass from a JSON object that must have each of its fields and nothing else."""
    record = _object(value, where)
    names = {f.name for f in fields(cls)} - set(skip)
    if set(record) != names:
        problems = [f"lacks {name!r}" for name in sorted(names - set(record))]
        problems += [f"has an unknown {name!r}" for name in sorted(set(record) - names)]
        raise ValueError(f"{where} {', '.join(problems)}")
    try:
        return cls(**record)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where != "the file" else str(error)) from error


def _split_number(key: str) -> int:
    if not key.isascii() or not key.isdigit() or str(int(key)) != key:
        raise ValueError(f'"splits" has a key {key!r} that is not a number')
    return int(key)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which JSON does not allow")
