"""Where the numbers of the second paper's tables come from: a column of our results, or what the paper prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pretrain.readout.averages import LAST, Score, all_stages, averaged, mean_accuracy
from pretrain.readout.columns import Column
from pretrain.readout.recipes import architecture, encoder_spec
from pretrain.readout.subsampling_costs import cost_of_record
from pretrain.readout.subsampling_grid import Cutting, Grid, Place, Subsampling, shown_titles
from pretrain.readout.subsampling_published import EPOCHS, RESULTS, Cost, PublishedResults


class Source(Protocol):
    """Numbers of one data set, readout, encoder and setting.

    Attributes:
        name: ``ours`` or ``paper``.
        title: of its columns.
        short: stands for the title where there is no room for it; need not be unique.
        data_set: name of the data set.
        kind: of the readout, a key of :data:`~pretrain.readout.runs.KINDS`.
        epochs: of the whole pretraining schedule.
        encoder: how tables spell it.
        stages: stages shown, bottom up.
        cuttings: what it has results of.
        subsamplings: what is subsampled, by threshold.
    """

    name: str
    title: str
    short: str
    data_set: str
    kind: str
    epochs: int | None
    encoder: str
    stages: Sequence[str]
    cuttings: Sequence[Cutting]
    subsamplings: Sequence[Subsampling]

    def score(self, cutting: Cutting, subsampling: Subsampling | None, stage: str) -> Score | None:
        """The accuracy after a stage, with the difference to plain SimCLR's mean; None without results."""

    def cost(self, cutting: Cutting, subsampling: Subsampling | None) -> Cost | None:
        """Costs of the pretraining; None where they are not known."""


class OurResults:
    """A column of a grid; see :class:`Source`.

    Args:
        grid: our results.
        column: one of its columns.
        title: of the column.
        every_stage: whether to show every stage that was read out, instead of the last one.
    """

    name = "ours"

    def __init__(self, grid: Grid, column: Column, title: str, every_stage: bool) -> None:
        runs = {place: runs for place, runs in grid.runs.items() if place.column == column}
        self.title, self.data_set, self.kind, self.epochs = title, column.data_set, column.kind, column.epochs
        self.short, self.encoder = column.data_set, column.architecture
        self.stages = all_stages(run for cell in runs.values() for run in cell) if every_stage else [LAST]
        self.cuttings = sorted({place.cutting for place in runs})
        self.subsamplings = grid.subsamplings(column)
        self._runs, self._column = runs, column

    def score(self, cutting: Cutting, subsampling: Subsampling | None, stage: str) -> Score | None:
        """See :class:`Source`."""
        runs = self._runs.get(Place(cutting, subsampling, self._column))
        if runs is None:
            return None
        plain = self._runs.get(Place(cutting, None, self._column), ())
        return averaged(runs, stage, base=None if subsampling is None else mean_accuracy(plain, stage))

    def cost(self, cutting: Cutting, subsampling: Subsampling | None) -> Cost | None:
        """See :class:`Source`; all results of a place have the same."""
        runs = self._runs.get(Place(cutting, subsampling, self._column))
        return cost_of_record(runs[0].record) if runs else None


class PaperResults:
    """What the paper prints of a data set; see :class:`Source`. Its tables have no differences."""

    name = "paper"
    kind = "linear_adam"
    epochs = EPOCHS

    def __init__(self, published: PublishedResults) -> None:
        self.data_set, self.short = published.data_set, f"paper, {published.data_set}"
        self.encoder = architecture(encoder_spec(published.encoder))
        self.title = f"paper (Table {published.table}), {self.data_set}, {self.encoder}, {EPOCHS} epochs"
        self.stages = [LAST]
        self.cuttings = [Cutting(k) for k in published.simclr]
        self.subsamplings = [Subsampling(published.threshold)]
        self._published = published

    def score(self, cutting: Cutting, subsampling: Subsampling | None, stage: str) -> Score | None:
        """See :class:`Source`."""
        rows = {None: self._published.simclr, self.subsamplings[0]: self._published.subsampled}.get(subsampling, {})
        if cutting not in self.cuttings or cutting.k not in rows:
            return None
        mean, std = rows[cutting.k]
        return Score(mean, std, None, self._published.runs, ())

    def cost(self, cutting: Cutting, subsampling: Subsampling | None) -> Cost | None:
        """See :class:`Source`."""
        known = cutting in self.cuttings and subsampling in (None, *self.subsamplings)
        return self._published.costs.get(cutting.k) if known else None


def our_sources(grid: Grid, every_stage: bool) -> list[OurResults]:
    """One for each column of a grid, in order."""
    return [OurResults(grid, column, title, every_stage) for column, title in shown_titles(grid.columns).items()]


def paper_sources(table: int) -> list[PaperResults]:
    """One for each data set of a table of the paper."""
    return [PaperResults(published) for published in RESULTS if published.table == table]
