"""Whether the runs of an AP table can be compared: what makes it less than it seems, in one line each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loco_det.ap_rows import RowKey, RunGrid, averaged_splits, folder
from loco_det.evaluation.results import TASKS, RunResults
from pretrain.work_dir import RECORD_NAME

COMPARED_KEYS = (
    "train_cfg", "optim_wrapper", "param_scheduler", "new_layer_norm", "train_dataloader.batch_size", "data.supercategories",
    "protocol",
)
"""Of the resolved config: what runs on one data set must have in common, whatever their backbone."""


def grid_warnings(grid: RunGrid) -> list[str]:
    """What to be warned of in a table of these runs.

    That is, for every data set: runs of the baseline that are not there, incomplete runs, runs that are not compared with
    the baseline because they were averaged over other splits, splits of the same number that were trained on other images,
    and configs that differ in more than the backbone.
    """
    return [line for dataset in grid.datasets for line in _dataset_warnings(grid, dataset)]


def _dataset_warnings(grid: RunGrid, dataset: str) -> Iterator[str]:
    runs = {row: run for (row, other), run in grid.runs.items() if other == dataset}
    wanted = dict.fromkeys(base for row in runs if (base := row.baseline(grid.baseline)) is not None)
    for base in wanted:
        if base not in runs:
            yield f"no run of the baseline {grid.name(base)} on {dataset}: no differences there"
    for row, run in runs.items():
        name, base = f"{grid.name(row)} on {dataset}", grid.base_run(row, dataset)
        if not run.complete:
            yield f"{name} is incomplete: {len(run.splits)} of {len(run.requested_splits)} splits are finished"
        if base is not None:
            yield from _comparison_warnings(name, run, grid.name(row.baseline(grid.baseline)), base)
    yield from _setting_warnings(grid, dataset, runs)


def _comparison_warnings(name: str, run: RunResults, base_name: str, base: RunResults) -> Iterator[str]:
    for mine, others in dict.fromkeys((averaged_splits(run, task), averaged_splits(base, task)) for task in TASKS):
        if mine and others and mine != others:
            yield (f"{name} is averaged over splits {list(mine)}, but {base_name} over {list(others)}: no difference told "
                   "between them")
    common = sorted(run.splits.keys() & base.splits.keys())
    differing = [i for i in common if run.splits[i].image_ids_sha256 != base.splits[i].image_ids_sha256]
    if differing:
        yield f"{name} was trained on other images than {base_name} in splits {differing}"


def _setting_warnings(grid: RunGrid, dataset: str, runs: Mapping[RowKey, RunResults]) -> Iterator[str]:
    """One line for each setting in which the configs of a data set's runs differ."""
    if len(runs) < 2:
        return
    settings = {row: _settings(run) for row, run in runs.items()}
    unknown = [folder(runs[row]) for row, values in settings.items() if values is None and runs[row].source is not None]
    if unknown:
        yield (f"no readable {RECORD_NAME} in {', '.join(unknown)}: not checked whether schedule, batch and normalisation "
               f"are those of the other runs on {dataset}")
    known = {row: values for row, values in settings.items() if values is not None}
    for key in sorted(set().union(*known.values())):
        names: dict[str, list[str]] = defaultdict(list)
        for row, values in known.items():
            names[values.get(key, "not set")].append(grid.name(row))
        if len(names) > 1:
            told = ", ".join(f"{value} ({', '.join(rows)})" for value, rows in names.items())
            yield f"runs on {dataset} differ in {key}: {told}"


def _settings(run: RunResults) -> dict[str, str] | None:
    """The compared part of a run's config as text by dotted names; None where the work directory does not tell it."""
    if run.source is None:
        return None
    try:
        config = json.loads((run.source.parent / RECORD_NAME).read_text(encoding="utf-8"))["config"]
        parts = {key: _part(config, key.split(".")) for key in COMPARED_KEYS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {name: json.dumps(value) for key, part in parts.items() for name, value in _leaves(part, key)}


def _part(config: Mapping[str, Any], path: Sequence[str]) -> Any:
    value: Any = config
    for name in path:
        value = None if value is None else value.get(name)
    return value


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Leaves by dotted names; lists of numbers are told whole, and None is as good as left out."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, f"{name}.{key}")
    elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        for index, child in enumerate(value):
            yield from _leaves(child, f"{name}.{index}")
    elif value is not None:
        yield name, value
