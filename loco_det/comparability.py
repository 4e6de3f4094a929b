"""Whether the runs of an AP table can be compared: what makes it less than it seems, in one line each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loco_det.ap_rows import RANDOM, RowKey, RunGrid, averaged_splits, folder
from loco_det.evaluation.results import OFFICIAL, TASKS, RunResults
from loco_det.published import VAL_IMAGES
from pretrain.work_dir import RECORD_NAME

MAY_DIFFER = frozenset({
    "pretrained",  # what the rows of a table are about; two files in one row are told of by themselves
    "model.backbone.encoder", "model.backbone.out_stages", "model.backbone.out_strides", "model.backbone.checkpoint",
    "model.neck.in_channels",
    "data.root", "synthetic_data.root",
    "data.val_sha256",  # told from the results, which have it of every split
    "train_pipeline", "test_pipeline", "presnet50",  # names within config files; what is made of them is compared
})  # fmt: skip
"""Of the config in ``run.json``, which has no execution keys: what runs on one data set need not have in common."""
FROZEN_STAGES = "model.backbone.frozen_stages"  # compared within an encoder, see :func:`_compared_rows`
MAX_LINES = 10  # on the settings of one data set
TASK_NAMES = {"bbox": "box AP", "segm": "mask AP", OFFICIAL: "official AP"}


def grid_warnings(grid: RunGrid) -> list[str]:
    """What to be warned of in a table of these runs.

    That is rows whose runs started from different backbone files, and for every data set: runs of the baseline that are not
    there, incomplete runs, splits without a value, runs that are not compared with the baseline because they were averaged
    over other splits, splits of the same number that were trained on other images, evaluation on different annotations or on
    another number of images than the data set's name promises, and configs that differ in more than :data:`MAY_DIFFER`.
    """
    lines = [line for dataset in grid.datasets for line in _dataset_warnings(grid, dataset)]
    return [*_backbone_warnings(grid), *lines]


def _backbone_warnings(grid: RunGrid) -> Iterator[str]:
    """One line for each row whose runs started from different files."""
    for row in grid.rows:
        datasets: dict[str, list[str]] = defaultdict(list)
        for (other, dataset), run in grid.runs.items():
            if other == row:
                datasets["no file" if run.pretrained is None else _short(run.pretrained.sha256)].append(dataset)
        if len(datasets) > 1:
            yield f"the row {grid.name(row)} is of different backbones: {_told(datasets)}"


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
        for task in grid.tasks(dataset):
            missing = sorted(run.splits.keys() - set(averaged_splits(run, task)))
            if missing:
                yield f"{name} is incomplete: no {TASK_NAMES[task]} in splits {missing}"
        if base is not None:
            yield from _comparison_warnings(name, run, grid.name(row.baseline(grid.baseline)), base)
    yield from _evaluation_warnings(grid, dataset, runs)
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


def _evaluation_warnings(grid: RunGrid, dataset: str, runs: Mapping[RowKey, RunResults]) -> Iterator[str]:
    """Where AP is not of the same annotations, or not of the data set's whole validation set."""
    of_runs: dict[str, list[str]] = defaultdict(list)
    of_counts: dict[int, list[str]] = defaultdict(list)
    for row, run in runs.items():
        of_splits: dict[str, list[str]] = defaultdict(list)
        for index, split in sorted(run.splits.items()):
            of_splits[f"{split.num_val_images:,} images, {_short(split.val_sha256)}"].append(f"split {index}")
        if len(of_splits) > 1:
            yield f"{grid.name(row)} on {dataset} was evaluated on different annotations: {_told(of_splits)}"
        if of_splits:
            of_runs[" and ".join(of_splits)].append(grid.name(row))
        for count in sorted({split.num_val_images for split in run.splits.values()}):
            of_counts[count].append(grid.name(row))
    if len(of_runs) > 1:
        yield f"runs on {dataset} were evaluated on different annotations: {_told(of_runs)}"
    for count, names in of_counts.items():
        if count != VAL_IMAGES.get(dataset, count):
            yield (f"not AP on the whole validation set of {dataset}, which has {VAL_IMAGES[dataset]:,} images: {count:,} "
                   f"({', '.join(names)})")


def _setting_warnings(grid: RunGrid, dataset: str, runs: Mapping[RowKey, RunResults]) -> Iterator[str]:
    """One line for each setting in which the configs of a data set's runs differ, as far as that is readable."""
    if len(runs) < 2:
        return
    settings = {row: _settings(run) for row, run in runs.items()}
    unknown = [folder(runs[row]) for row, values in settings.items() if values is None and runs[row].source is not None]
    if unknown:
        yield (f"no readable {RECORD_NAME} in {', '.join(unknown)}: not checked whether schedule, batch and all else are "
               f"those of the other runs on {dataset}")
    differences = _differences(grid, {row: values for row, values in settings.items() if values is not None})
    yield from (f"runs on {dataset} differ in {difference}" for difference in differences[:MAX_LINES])
    if len(differences) > MAX_LINES:
        yield f"runs on {dataset} differ in {len(differences) - MAX_LINES} more settings; compare their {RECORD_NAME}"


def _differences(grid: RunGrid, settings: Mapping[RowKey, Mapping[str, str]]) -> list[str]:
    """The settings that differ, with their values and whose these are."""
    found = []
    for key in sorted(set().union(*settings.values())):
        for rows in _compared_rows(key, list(settings)):
            names: dict[str, list[str]] = defaultdict(list)
            for row in rows:
                names[settings[row].get(key, "not set")].append(grid.name(row))
            if len(names) > 1:
                found.append(f"{key}: {_told(names)}")
    return found


def _compared_rows(key: str, rows: Sequence[RowKey]) -> Iterator[list[RowKey]]:
    """Groups of rows that must have the same value of a setting.

    That is all of them, but for what is frozen: it is counted in the encoder's stages, and random weights may be freed.
    """
    if key != FROZEN_STAGES:
        yield list(rows)
        return
    for encoder in dict.fromkeys(row.encoder for row in rows):
        yield [row for row in rows if row.encoder == encoder and row.method != RANDOM]


def _settings(run: RunResults) -> dict[str, str] | None:
    """The compared part of a run's config as text by dotted names; None where the work directory does not tell it."""
    if run.source is None:
        return None
    try:
        config = json.loads((run.source.parent / RECORD_NAME).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name: json.dumps(value) for name, value in _leaves(config)} if isinstance(config, Mapping) else None


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Compared leaves by dotted names; lists of numbers are told whole, and None is as good as left out."""
    if name in MAY_DIFFER or value is None:
        return
    if isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _leaves(child, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _told(names: Mapping[str, Sequence[str]]) -> str:
    """Values and whose they are: ``value (name, name), other value (name)``."""
    return ", ".join(f"{value} ({', '.join(whose)})" for value, whose in names.items())


def _short(sha256: str) -> str:
    """As much of a hash as tells files apart for a reader."""
    return f"sha256 {sha256[:12]}"
