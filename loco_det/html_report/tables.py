"""The tables of a report, made by what the tools print them with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loco_det.ap_rows import row_key
from loco_det.evaluation.results import TASKS, RunResults
from loco_det.html_report.blocks import Table, plain_table, shown_path
from loco_det.html_report.commands import tool_command
from loco_det.html_report.records import Record
from loco_det.html_report.runs import PRETRAINING, Run, image_size, spelled_options
from loco_det.published import TABLES
from loco_det.report import TASK_TITLES, ap_report

USUAL_SIZE = 224  # of images, where a config does not tell
ACCURACY_TABLES = (1, 4, 5, 7)  # of the LoCo paper


def runs_table(runs: Sequence[Run], directories: Sequence[Path]) -> Table:
    """Every run in a line, by its folder within those that the report is of."""
    header = ["Run", "Kind", "Method", "Data", "State", "Progress", "Duration (min)", "Revision"]
    rows = [[_within(run.path, directories), run.kind, run.method, run.data, run.state, run.progress,
             "" if run.seconds is None else f"{run.seconds / 60:.1f}", (run.revision or "")[:10]] for run in runs]
    return plain_table("Every run", header, rows)


def records_table(records: Sequence[Record], directories: Sequence[Path]) -> Table:
    """Every readout and analysis in a line.

    Args:
        records: what was found.
        directories: what the report is of.
    """
    header = ["Encoder", "Kind", "Method", "Data", "Top-1 at the end (%)", "Duration (min)", "Device", "Revision"]
    rows = [[_within(record.file.parent.with_suffix(""), directories), record.kind, record.method, record.data,
             "" if record.accuracy is None else f"{record.accuracy:.2f}",
             "" if record.seconds is None else f"{record.seconds / 60:.1f}", record.device, (record.revision or "")[:10]]
            for record in records]
    return plain_table("Every readout and analysis", header, rows)


def _within(path: Path, directories: Sequence[Path]) -> str:
    """A path from the folder of the report that it lies in, which is named where there are several."""
    folder = next((folder for folder in directories if path.resolve().is_relative_to(folder.resolve())), Path.cwd())
    inner = path.resolve().relative_to(folder.resolve())
    if len(directories) == 1 and inner.parts:
        return str(inner)
    return str(folder.resolve().name / inner)


def ap_tables(results: Sequence[RunResults]) -> Iterator[Table]:
    """AP of all methods, and in the layout of each of the LoCo paper's tables that has one of the data sets.

    Raises:
        ValueError: there are no results, or two of the same method and data.
    """
    folders = [run.source.parent for run in results]
    if not folders:
        raise ValueError("no detection results; run tools/train_det.py first")
    titles = {None: "AP, mean ± standard deviation over the splits (difference to SimCLR)"}
    titles |= {number: f"Table {number} of the LoCo paper, its numbers beside ours" for number, table in TABLES.items()
               if any(run.dataset in table.datasets for run in results)}
    for number, title in titles.items():
        options = dict(table=number, paper=number is not None)
        report = ap_report(folders, **options)
        arguments = [] if number is None else ["--table", str(number), "--paper"]
        yield Table(title, report.text, ap_report(folders, fmt="latex", **options).text,
                    tool_command("report_ap", *map(shown_path, folders), *arguments), report.warnings, report.notes)


def splits_table(results: Sequence[RunResults]) -> Table:
    """AP of every split of every run; runs that are otherwise called the same are told by their folders, too.

    Raises:
        ValueError: no split is finished.
    """
    metrics = [(task, metric) for task in TASKS for metric in ("AP", "AP50", "AP75")]
    alike = len({(row_key(run), run.dataset) for run in results}) < len(results)
    header = ["Method", "Data", *(["Folder"] * alike), "Split",
              *(f"{TASK_TITLES[task].replace('AP', metric)}" for task, metric in metrics), "Images (train / val)"]
    rows = []
    for run in results:
        for index, split in sorted(run.splits.items()):
            values = [getattr(split, task)[metric] for task, metric in metrics]
            rows.append([run.method, run.dataset, *([shown_path(run.source.parent)] * alike), str(index),
                         *("" if v is None else f"{v:.2f}" for v in values),
                         f"{split.num_train_images} / {split.num_val_images}"])
    if not rows:
        raise ValueError("no split is finished yet")
    return plain_table("Every split", header, rows, folded=True)


def accuracy_tables(paths: Sequence[Path]) -> Iterator[Table]:
    """Readout accuracies in the form of the LoCo paper's Table 1, and of each other table that has more than those.

    Args:
        paths: readout results, or folders above them.

    Raises:
        ValueError: there are no readout results, or some that contradict each other.
    """
    from pretrain.readout.report import accuracy_report

    seen: set[tuple] = set()
    for number in ACCURACY_TABLES:
        rows = json.loads(accuracy_report(paths, number, fmt="json").text)["rows"]
        found = {(row["data_set"], row["kind"], row["mean"], row["std"]) for row in rows if row["mean"] is not None}
        if number != ACCURACY_TABLES[0] and found <= seen:
            continue
        seen |= found
        for stages, of in (("last", "after the last stage"), ("all", "after every stage")):
            reports = {fmt: accuracy_report(paths, number, fmt=fmt, stages=stages) for fmt in ("markdown", "latex")}
            arguments = [*map(shown_path, paths), "--table", str(number), *(["--stage", "all"] * (stages == "all"))]
            yield Table(f"Top-1 accuracy (%) {of}, rows of the LoCo paper's Table {number}", reports["markdown"].text,
                        reports["latex"].text, tool_command("report_linear", *arguments),
                        reports["markdown"].warnings if stages == "last" else ())


def subsampling_tables(paths: Sequence[Path]) -> Iterator[Table]:
    """Readout accuracies of decoupled pretraining in the form of each of the second paper's tables that has results.

    Args:
        paths: readout results, or folders above them.

    Raises:
        ValueError: there are no such results, or some that contradict each other.
    """
    from pretrain.readout.subsampling_report import TABLES as SUBSAMPLING_TABLES
    from pretrain.readout.subsampling_report import subsampling_report

    for number in SUBSAMPLING_TABLES:
        rows = json.loads(subsampling_report(paths, number, paper=True, fmt="json").text)["rows"]
        if all(row["mean"] is None for row in rows if row["source"] == "ours"):
            continue
        reports = {fmt: subsampling_report(paths, number, paper=True, fmt=fmt) for fmt in ("markdown", "latex")}
        yield Table(f"Top-1 accuracy (%), Table {number} of Fournier et al., 2023, its numbers beside ours",
                    reports["markdown"].text, reports["latex"].text,
                    tool_command("report_subsampling", *map(shown_path, paths), "--table", str(number), "--paper"),
                    reports["markdown"].warnings, reports["markdown"].notes)


def encoders_of(runs: Iterable[Run]) -> list[tuple[Any, int]]:
    """The encoders of the pretrainings, each with the side of its views in pixels, in order."""
    found = {}
    for run in runs:
        if run.kind == PRETRAINING:
            encoder, size = run.config["model"]["encoder"], image_size(run) or USUAL_SIZE
            found[json.dumps([encoder, size], sort_keys=True)] = (encoder, size)
    return list(found.values())


def complexity_table(encoder: Any, size: int) -> Table:
    """Costs of an encoder stage by stage."""
    from pretrain.complexity import format_table, stage_complexity
    from pretrain.encoders import build_encoder

    markdown = format_table(stage_complexity(build_encoder(encoder), size)) + "\n"
    shown = Table(f"{spelled_options(encoder)} on images of {size} px", markdown, "")
    latex = plain_table(shown.title, shown.header, [row.cells for row in shown.rows]).latex
    options = {"type": encoder} if isinstance(encoder, str) else dict(encoder)
    command = None
    if set(options) == {"type"}:
        command = tool_command("complexity", "--encoder", options["type"], "--input-size", str(size))
    return Table(shown.title, markdown, latex, command)
