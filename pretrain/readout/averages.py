"""What the readout results of a table's cell average to, and what to know of the averages."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pretrain.readout.recipes import encoder_stages
from pretrain.readout.runs import ReadoutRun
from pretrain.tables import Notation, epochs

LAST = "last"
STAGES = {LAST: "the encoder's last stage", "all": "every stage that was read out"}


@dataclass(frozen=True)
class Score:
    """A cell: what the results of one row in one column average to, after one stage.

    Attributes:
        mean: top-1 accuracy in percent; None without complete runs.
        std: sample standard deviation over the pretrainings; None for fewer than two.
        delta: difference to the baseline's mean; None for the baseline itself and where it has none.
        runs: number of pretrainings averaged.
        incomplete: epochs reached by the pretrainings that were left out because no encoder from the end of their schedule
            is there; one for each pretraining, ascending.
    """

    mean: float | None
    std: float | None
    delta: float | None
    runs: int
    incomplete: tuple[int, ...]


NO_SCORE = Score(None, None, None, 0, ())


def check_distinct(runs: Iterable[ReadoutRun]) -> None:
    """Checks that no result is given twice.

    Raises:
        ValueError: one is; names both files.
    """
    seen: dict[str, ReadoutRun] = {}
    for run in runs:
        other = seen.setdefault(run.identity, run)
        if other is not run:
            raise ValueError(f"two results of the same readout: {other.source} and {run.source}; leave one out")


def last_stage(run: ReadoutRun) -> str:
    """Name of the encoder's last stage."""
    return list(encoder_stages(run.encoder_spec))[-1]


def all_stages(runs: Iterable[ReadoutRun]) -> list[str]:
    """Every stage that was read out, from the bottom up."""
    orders = sorted((list(run.accuracies) for run in runs), key=len, reverse=True)
    return list(dict.fromkeys(stage for order in orders for stage in order))


def mean_accuracy(runs: Iterable[ReadoutRun], stage: str) -> float | None:
    """The mean over complete pretrainings, in percent; None without any. For ``stage`` see :func:`averaged`."""
    values = _accuracies(runs, stage)
    return statistics.mean(values) if values else None


def averaged(runs: Sequence[ReadoutRun], stage: str, base: float | None) -> Score:
    """What results average to.

    Args:
        runs: of one row and column.
        stage: name of a stage, or :data:`LAST`.
        base: the baseline's mean; None where there is none.
    """
    values, mean = _accuracies(runs, stage), mean_accuracy(runs, stage)
    return Score(
        mean=mean,
        std=statistics.stdev(values) if len(values) > 1 else None,
        delta=None if mean is None or base is None else mean - base,
        runs=len(values),
        incomplete=tuple(sorted(_reached_by_incomplete(runs).values())),
    )


def score_text(score: Score | None, schedule: int | None, notation: Notation) -> str:
    """One table cell, e.g. ``65.2 ± 0.1 (-0.5) (3 runs)``; an en dash where there is no value.

    Incomplete pretrainings are told last: how far they are where there is no mean, and otherwise that they are not in it.

    Args:
        score: None where there are no results.
        schedule: epochs of the pretraining's whole schedule, which incomplete ones are told with.
        notation: of the table's format.
    """
    if score is None:
        return notation.missing
    text = notation.score(score.mean, score.std, score.delta)
    if score.runs > 1:
        text += f" ({score.runs} runs)"
    if not score.incomplete:
        return text
    if score.mean is None:
        return f"{text} (incomplete: at {', '.join(map(str, score.incomplete))} of {epochs(schedule)})"
    return f"{text} (+ {len(score.incomplete)} incomplete run{'s' if len(score.incomplete) > 1 else ''} left out)"


def averaging_warnings(cells: Mapping[object, Sequence[ReadoutRun]]) -> list[str]:
    """What to know of averages: encoders left out, settings that could not be compared, checkpoints of the same seed.

    Args:
        cells: the results of every cell.
    """
    runs = list(dict.fromkeys(run for runs in cells.values() for run in runs))
    lines = list(dict.fromkeys(line for runs in cells.values() for line in _left_out(runs)))
    if unrecorded := sum(bool(run.record) and run.settings is None for run in runs):
        lines.append(f"the pretraining records of {unrecorded} results are from before settings were recorded: only rule, "
                     "encoder, decoder and epochs were compared before these were averaged")
    return [*lines, *dict.fromkeys(line for runs in cells.values() for line in _doubled_seeds(runs))]


def _accuracies(runs: Iterable[ReadoutRun], stage: str) -> list[float]:
    """What the complete pretrainings have after a stage, each the mean over its readouts."""
    by_repetition: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        name = last_stage(run) if stage == LAST else stage
        if run.complete and name in run.accuracies:
            by_repetition[run.repetition].append(run.accuracies[name])
    return [statistics.mean(values) for values in by_repetition.values()]


def _reached_by_incomplete(runs: Iterable[ReadoutRun]) -> dict[str, int]:
    """The latest epoch of each repetition of which no encoder is from the end of the schedule."""
    runs = list(runs)
    ended = {run.repetition for run in runs if run.complete}
    reached: dict[str, int] = defaultdict(int)
    for run in runs:
        if run.repetition not in ended:
            reached[run.repetition] = max(reached[run.repetition], run.record["epoch"])
    return reached


def _left_out(runs: Iterable[ReadoutRun]) -> Iterator[str]:
    """One line for each result of a cell that is not from the end of its pretraining's schedule."""
    runs = list(runs)
    ends = {run.repetition: run for run in runs if run.complete}
    for run in runs:
        if run.complete:
            continue
        at, end = f"at {run.record['epoch']} of {epochs(run.epochs)}", ends.get(run.repetition)
        if end is None:
            yield f"{run.source} is of an incomplete pretraining, {at}: left out of the averages"
        else:
            yield (f"{run.source} is of an earlier checkpoint, {at}, of the pretraining of {end.source}: left out of the "
                   "averages")


def _doubled_seeds(runs: Iterable[ReadoutRun]) -> Iterator[str]:
    """One line for each complete encoder of a cell that has the seed of another."""
    first: dict[str, ReadoutRun] = {}
    encoders = {run.encoder_identity: run for run in runs if run.complete}
    for run in encoders.values():
        other = first.setdefault(run.repetition, run)
        if other is not run:
            yield (f"{other.source} and {run.source} are of different checkpoints, but of the same settings and "
                   f"{run.repetition}: counted as one run")
