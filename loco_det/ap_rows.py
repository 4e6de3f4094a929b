"""What AP tables are made of: runs by row and data set, the row each is compared with, and the scores of their cells.

A row is a method, an encoder and the epochs of its pretraining. Its runs are compared with the baseline's of the same
encoder and epochs, and only over the same splits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loco_det.evaluation.results import OFFICIAL, TASKS, ResultsError, RunResults
from pretrain.tables import epochs as spell_epochs

BASELINE = "simclr"
RANDOM = "random"
UNSCHEDULED = (RANDOM, "supervised")  # methods without a pretraining of some epochs
METHOD_ORDER = (*UNSCHEDULED, "simclr", "gim", "loco")
ENCODER_ORDER = ("resnet50", "shufflenet_v2_50", "presnet50")
DATASET_ORDER = ("coco", "cityscapes", "coco10k", "coco1k")


@dataclass(frozen=True)
class RowKey:
    """What one row of an AP table is of.

    Attributes:
        method: name of the pretraining.
        encoder: registered name.
        epochs: of the pretraining; None for :data:`UNSCHEDULED` methods, or where unknown.
    """

    method: str
    encoder: str
    epochs: int | None

    @property
    def scheduled(self) -> bool:
        """Whether there was a pretraining of some epochs."""
        return self.method not in UNSCHEDULED

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts rows: by encoder, then unscheduled ones, by epochs, those of unknown epochs, and by method."""
        unknown = self.scheduled and self.epochs is None
        return (_place(self.encoder, ENCODER_ORDER), unknown, self.epochs or 0, _place(self.method, METHOD_ORDER))

    def baseline(self, method: str) -> RowKey | None:
        """The row of the baseline ``method`` that this one is compared with.

        That is the one of the same encoder and epochs. A baseline without epochs is that of every row of its encoder; to one
        with epochs, rows without them are not compared.

        Returns:
            None for a row that is not compared.
        """
        if self.method == method or (method not in UNSCHEDULED and not self.scheduled):
            return None
        return replace(self, method=method, epochs=None if method in UNSCHEDULED else self.epochs)


@dataclass(frozen=True)
class Score:
    """One cell.

    Attributes:
        mean: AP in points, averaged over splits; None without any.
        std: sample standard deviation; None for fewer than two splits.
        delta: difference to the baseline's mean; None for rows that are not compared, and where the baseline has no run or
            was averaged over other splits.
        splits: numbers of the splits averaged.
        requested: how many make the run complete.
    """

    mean: float | None
    std: float | None
    delta: float | None
    splits: tuple[int, ...]
    requested: int

    @property
    def complete(self) -> bool:
        """Whether every requested split is averaged."""
        return len(self.splits) == self.requested


@dataclass(frozen=True)
class RunGrid:
    """Runs in their places, see :func:`run_grid`.

    Attributes:
        runs: by row and data set, rows and data sets in the order of the table.
        baseline: method that the others are compared with.
    """

    runs: Mapping[tuple[RowKey, str], RunResults]
    baseline: str

    @property
    def rows(self) -> list[RowKey]:
        """Every row that has a run, in order."""
        return list(dict.fromkeys(row for row, _ in self.runs))

    @property
    def datasets(self) -> list[str]:
        """Every data set that has a run, in order."""
        return sorted({dataset for _, dataset in self.runs}, key=dataset_order)

    def tasks(self, dataset: str) -> list[str]:
        """The precisions that runs on a data set have: boxes, masks, and what it evaluates itself."""
        official = any(run.has_official for (_, other), run in self.runs.items() if other == dataset)
        return [*TASKS, OFFICIAL] if official else list(TASKS)

    def base_run(self, row: RowKey, dataset: str) -> RunResults | None:
        """The run that a row's is compared with, if there is one."""
        base = row.baseline(self.baseline)
        return None if base is None else self.runs.get((base, dataset))

    def score(self, row: RowKey, dataset: str, task: str) -> Score | None:
        """The cell of a row, data set and task; None without a run."""
        run, base = self.runs.get((row, dataset)), self.base_run(row, dataset)
        if run is None:
            return None
        mean, std = run.mean_std(task)
        splits, delta = averaged_splits(run, task), None
        if base is not None and splits and splits == averaged_splits(base, task):
            delta = mean - base.mean_std(task).mean
        return Score(mean, std, delta, splits, len(run.requested_splits))

    def name(self, row: RowKey) -> str:
        """How messages call a row: by its method and what tells it from others."""
        parts = [row.encoder] if shows_encoder(self.rows) else []
        if row.scheduled and shows_epochs(self.rows):
            parts.append(spelled_epochs(row.epochs))
        return f"{row.method} ({', '.join(parts)})" if parts else row.method


def run_grid(runs: Iterable[RunResults], baseline: str = BASELINE) -> RunGrid:
    """Puts runs in their places.

    Raises:
        ResultsError: two runs are of the same row and data set; names both folders.
    """
    grid: dict[tuple[RowKey, str], RunResults] = {}
    for run in runs:
        other = grid.setdefault((row_key(run), run.dataset), run)
        if other is not run:
            raise ResultsError(f"two runs of {run.method} on {run.dataset}: {folder(other)} and {folder(run)}, both of "
                               f"{run.encoder}, {spelled_epochs(row_key(run).epochs)}; leave one out")
    ordered = sorted(grid, key=lambda key: (key[0].order, dataset_order(key[1])))
    return RunGrid({key: grid[key] for key in ordered}, baseline)


def row_key(run: RunResults) -> RowKey:
    """The row that a run belongs to."""
    key = RowKey(run.method, run.encoder, run.pretraining_epochs)
    return key if key.scheduled else replace(key, epochs=None)


def averaged_splits(run: RunResults, task: str) -> tuple[int, ...]:
    """Numbers of the splits whose AP is averaged: the finished ones that have a value."""
    values = zip(run.splits, run.precisions(task), strict=True)
    return tuple(sorted(split for split, value in values if value is not None))


def shows_encoder(rows: Iterable[RowKey]) -> bool:
    """Whether rows are of several encoders, so that tables must name them."""
    return len({row.encoder for row in rows}) > 1


def shows_epochs(rows: Sequence[RowKey]) -> bool:
    """Whether pretrainings of several lengths are among the rows, so that tables must tell them."""
    return len({row.epochs for row in rows if row.scheduled}) > 1


def spelled_epochs(epochs: int | None) -> str:
    """``100 epochs``, also where the number is not known."""
    return "unknown epochs" if epochs is None else spell_epochs(epochs)


def dataset_order(dataset: str) -> tuple[int, str]:
    """Sorts data sets as the paper does, others by name after them."""
    return _place(dataset, DATASET_ORDER)


def folder(run: RunResults) -> str:
    """The work directory of a run, for messages."""
    return "(not from a file)" if run.source is None else str(run.source.parent)


def _place(name: str, order: Sequence[str]) -> tuple[int, str]:
    return (order.index(name) if name in order else len(order), name)
