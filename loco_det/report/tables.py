"""The tables of a report: results as the table engine makes them, runs, and costs of encoders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loco_det.report.blocks import Table, duration_text, shown_path, shown_table, text_table
from loco_det.report.commands import tool_command
from loco_det.report.runs import Inputs, dataset_of, options_text
from pretrain.results import table as engine
from pretrain.results.store import DETECTION, PRETRAINING, Record

SPLIT_METRICS = ("AP", "AP50", "AP75")


def runs_table(inputs: Inputs) -> Table:
    """Every run in a line, by its folder within those that the report is of."""
    header = ["Run", "Kind", "Method", "Data", "State", "Progress", "Duration (min)", "Revision"]
    rows = [[_within(run.path, inputs.directories), run.kind, run.method, run.data, run.state, run.progress,
             _minutes(run.seconds), _revision(run.content)] for run in inputs.runs]
    return text_table("Every run", header, rows)


def evaluations_table(inputs: Inputs) -> Table:
    """Every evaluation and analysis in a line."""
    header = ["Encoder", "Protocol", "Method", "Data", "Top-1 at the end (%)", "Duration (min)", "Started (UTC)", "Revision"]
    rows = []
    for record in inputs.evaluations:
        content = record.content
        top1 = [row["value"] for row in content["rows"] if row["metric"] == "top1"]
        name = content["protocol"]["name"]
        rows.append([
            _within(record.path.parent.with_suffix(""), inputs.directories), engine.PROTOCOL_TITLES.get(name) or name,
            inputs.labels[record.method["key"]], dataset_of(record), f"{top1[-1]:.2f}" if top1 else "",
            _minutes(content.get("duration_s")), str(content.get("started", ""))[:16].replace("T", " "), _revision(content),
        ])
    return text_table("Every evaluation and analysis", header, rows)


def _within(path: Path, directories: Sequence[Path]) -> str:
    """A path from the folder of the report that it lies in, which is named where there are several."""
    folder = next((folder for folder in directories if path.resolve().is_relative_to(folder.resolve())), Path.cwd())
    inner = path.resolve().relative_to(folder.resolve())
    return str(inner) if len(directories) == 1 and inner.parts else str(folder.resolve().name / inner)


def _minutes(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 60:.1f}"


def _revision(content: Mapping[str, Any]) -> str:
    return str(content.get("git_revision") or "")[:10]


def result_tables(inputs: Inputs) -> Iterator[Table]:
    """The general table, each of the papers' that has results, accuracy after every stage, and AP by class and by split.

    Raises:
        ValueError: there are no results.
    """
    if inputs.frame.empty or (inputs.frame["kind"] == PRETRAINING).all():
        raise ValueError("there are no results of detectors or evaluations yet; run tools/train_det.py or an evaluation "
                         "first")
    folders = list(map(shown_path, inputs.directories))
    results = engine.Results(inputs.frame, inputs.records)
    yield shown_table(engine.general_table(results), command=tool_command("table", *folders))
    for name in engine.paper_layouts():
        table = engine.paper_table(results, name, paper=True)
        if _has_results(table):
            yield shown_table(table, f"{table.title}, its numbers beside ours",
                              command=tool_command("table", *folders, "--table", name, "--paper"))
    if not inputs.frame["last_stage"].all():
        by_stage = engine.general_table(engine.Results(inputs.frame, inputs.records, every_stage=True))
        yield shown_table(by_stage, "All results, after every stage", folded=True,
                          command=tool_command("table", *folders, "--stage", "all"))
    if inputs.frame["class_name"].notna().any():
        yield shown_table(engine.per_class_table(inputs.frame, inputs.records), folded=True,
                          command=tool_command("table", *folders, "--per-class"))
    if splits := [record for run in inputs.of_kind(DETECTION) for record in run.splits.values()]:
        yield _splits_table(inputs, splits)


def _has_results(table: engine.Table) -> bool:
    """Whether a published number stands beside one of ours."""
    return any(replace(column, stage=None, options=None, hint="", paper=True) in row.cells
               for row in table.rows for column, cell in row.cells.items() if not column.paper and cell.n)


def _splits_table(inputs: Inputs, records: Sequence[Record]) -> Table:
    """AP of every split of every run."""
    found = [{row["metric"]: row["value"] for row in record.content["rows"] if "class_name" not in row}
             for record in records]
    metrics = [metric for metric in dict.fromkeys(name for values in found for name in values)
               if metric.endswith(tuple(f"_{name}" for name in SPLIT_METRICS))]
    rows = []
    for record, values in zip(records, found, strict=True):
        content, shown = record.content, map(values.get, metrics)
        rows.append([
            _within(record.path.parent, inputs.directories), inputs.labels[record.method["key"]], dataset_of(record),
            *("" if value is None else f"{value:.2f}" for value in shown),
            f"{content.get('num_train_images')} / {content.get('num_val_images')}", duration_text(content["duration_s"]),
        ])
    header = ["Split", "Method", "Data", *map(_metric_title, metrics), "Images (train / val)", "Duration"]
    return text_table("AP of every split", header, rows, folded=True)


def _metric_title(metric: str) -> str:
    """``AP50^bb`` of ``bbox_AP50``."""
    task, _, name = metric.rpartition("_")
    return engine.METRIC_TITLES.get(f"{task}_AP", f"{task} AP").replace("AP", name, 1)


def encoders_of(inputs: Inputs) -> list[tuple[Any, int]]:
    """The encoders of the pretrainings, each with the side of its views in pixels, in order."""
    from pretrain.costs.complexity import USUAL_SIZE

    found = {}
    for run in inputs.of_kind(PRETRAINING):
        setting = run.record.setting
        encoder, size = setting["encoder"], setting.get("image_size") or USUAL_SIZE
        found[json.dumps([encoder, size], sort_keys=True)] = (encoder, size)
    return list(found.values())


def complexity_table(encoder: Mapping[str, Any], size: int) -> Table:
    """Costs of an encoder stage by stage."""
    from pretrain.costs.complexity import stage_complexity, table_cells
    from pretrain.encoders import build_encoder

    header, *rows = table_cells(stage_complexity(build_encoder(encoder), size))
    command = None
    if set(encoder) == {"type"}:
        command = tool_command("costs", "stages", "--encoder", encoder["type"], "--image-size", str(size))
    return text_table(f"{options_text(encoder)} on images of {size} px", header, rows, command=command)
