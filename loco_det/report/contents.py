"""The sections of a report, from what lies below some folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_det.report import tables
from loco_det.report.blocks import Missing, RunCard, Section, duration_text, shown_path
from loco_det.report.commands import commands, tool_command
from loco_det.report.detection_sections import ap_bars, detections
from loco_det.report.features_section import features
from loco_det.report.pretraining_sections import analyses, complexity, pretraining
from loco_det.report.runs import FINISHED, Inputs, Run, options_text, read_inputs
from pretrain.engine.work_dir import git_revision

MOST_NAMES = 3  # of folders in the title
METHOD_PARTS = ("rule", "objective", "head", "soft_sharing", "epochs_per_unit")
CONFIG_PARTS = {  # facts of a detection experiment, by where they are in its config
    "detector": ("model", "type"), "detector's schedule": ("train_cfg",),
    "detector's optimizer": ("optim_wrapper", "optimizer"),
    "detector's batch size": ("train_dataloader", "batch_size"), "annotations": ("data",),
}


@dataclass(frozen=True)
class Contents:
    """A whole report.

    Attributes:
        title: of the page.
        glance: the most important numbers, each under its name.
        sections: in order.
        command: writes the report again.
        revision: of the source tree that wrote it.
    """

    title: str
    glance: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    command: str
    revision: str | None

    @property
    def missing(self) -> list[Missing]:
        """All parts that are missing."""
        return [part for section in self.sections for part in section.missing]


def report_contents(
    directories: Sequence[str | Path], out: Path, gallery: int, data_root: str | Path | None = None
) -> Contents:
    """Everything that a report shows.

    Args:
        directories: work directories, or folders above several.
        out: the file that will hold it.
        gallery: images in the gallery of detections; 0 for none.
        data_root: folder of the detection data set; None for where it lay when the detectors were trained.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing below them, or the gallery's size is negative.
    """
    if gallery < 0:
        raise ValueError(f"gallery of {gallery} images; 0 or more are possible")
    inputs = read_inputs(directories)
    sections = [filled(section, fill, inputs, *options) for section, fill, *options in (
        (Section("runs", "What was run", "Every run with its settings, machine and messages stands further below."),
         _what_was_run),
        (Section("results", "Results", "AP of detectors in points, AP^bb of boxes and AP^mk of masks; accuracy of simple "
                 "classifiers on frozen encoders in percent."), _results),
        (Section("analyses", "Depth, spectrum and kept pairs", "The analyses of Fournier et al., 2023: what every depth "
                 "knows, and how much of its space it uses."), analyses),
        (Section("features", "Features", "How far the classes of validation objects lie apart before any label was seen."),
         features, data_root),
        (Section("pretraining", "Pretraining"), pretraining),
        (Section("complexity", "Computation and memory", "What each encoder costs at the size that it was pretrained on; "
                 "FLOPs are multiply-adds, memory is counted as in the LoCo paper's Table 6."), complexity),
        (Section("gallery", "Detections", "Random validation images: ground truth, then every backbone's detector."),
         detections, gallery, data_root),
        (Section("details", "Every run in detail"), _details),
        (Section("reproduce", "How to get every number again", "Commands as they were typed, in this order, in the "
                 "project's root with its environment activated."), commands),
    )]
    glance: list[tuple[str, str]] = []
    with sections[0].guarded("The most important numbers"):
        glance += _glance(inputs)
    moved = [] if data_root is None else ["--data-root", shown_path(data_root)]
    options = ["-o", shown_path(out), "--gallery", str(gallery), *moved]
    command = tool_command("report", *map(shown_path, inputs.directories), *options)
    return Contents(f"LoCo-Det: {_name(inputs.directories)}", glance, sections, command, git_revision())


def filled(section: Section, fill: Callable[..., None], *args: Any) -> Section:
    """A section with what ``fill(section, *args)`` adds to it; what breaks is missing in it, and costs no other section."""
    with section.guarded(section.title):
        fill(section, *args)
    return section


def _name(directories: Sequence[Path]) -> str:
    """What to call an experiment: after its folders, or after the one that holds them where they are many."""
    names = list(dict.fromkeys(directory.resolve().name for directory in directories))
    if len(names) <= MOST_NAMES:
        return ", ".join(names)
    return Path(os.path.commonpath([directory.resolve() for directory in directories])).name or f"{len(names)} folders"


def _glance(inputs: Inputs) -> list[tuple[str, str]]:
    runs = inputs.runs
    seconds = [run.seconds for run in runs if run.seconds is not None]
    revisions = list(dict.fromkeys(str(run.content.get("git_revision") or "unknown")[:10] for run in runs))
    return [
        ("runs finished", f"{sum(run.state == FINISHED for run in runs)} of {len(runs)}"),
        ("detectors evaluated", str(sum(len(run.splits) for run in runs))),
        ("evaluations and analyses", str(len(inputs.evaluations))),
        ("time of all runs", duration_text(sum(seconds)) if seconds else "not recorded"),
        ("git revision" if len(revisions) < 2 else "git revisions", ", ".join(revisions) or "not recorded"),
    ]


def _what_was_run(section: Section, inputs: Inputs) -> None:
    if inputs.runs:
        section.add("Every run", tables.runs_table, inputs)
    if inputs.evaluations:
        section.add("Every evaluation and analysis", tables.evaluations_table, inputs)
    for issue in inputs.issues:
        section.add_missing("A record", issue)
    for run in inputs.runs:
        if run.state != FINISHED:
            section.add_missing(run.name, "; ".join([run.state, run.progress, *(short for short, _ in run.problems)]))


def _results(section: Section, inputs: Inputs) -> None:
    section.add("Tables of results", tables.result_tables, inputs)
    ap_bars(section, inputs)


def _details(section: Section, inputs: Inputs) -> None:
    for run in inputs.runs:
        section.add(run.name, _card, run)
    if not inputs.runs:
        section.add_missing("Runs", "no work directory of a pretraining or a detection experiment (run.json) was found")


def _card(run: Run) -> RunCard:
    return RunCard(run.name, run.state, f"{run.kind}, {run.method}: {run.progress}", _facts(run), run.problems)


def _facts(run: Run) -> list[tuple[str, str]]:
    """All that is known of a run; what is empty is left out."""
    content = run.content
    facts: dict[str, Any] = {"folder": shown_path(run.path), "data set": run.data, "data folder": content.get("data_root")}
    if content:
        facts |= {name: content["method"].get(name) for name in METHOD_PARTS}
        facts |= {**content["setting"], **content["repetition"]}
        if backbone := content.get("backbone"):
            facts["backbone file"] = f"{backbone['path']} (SHA-256 {backbone['sha256'][:12]}…)"
        if "num_splits" in content:
            facts |= {name: _at(content.get("config"), keys) for name, keys in CONFIG_PARTS.items()}
        facts |= {name: content.get(name) for name in ("started", "processes", "machine", "versions", "git_revision")}
        facts["duration"] = duration_text(run.seconds)
    return [(name.replace("_", " "), text) for name, value in facts.items() if (text := options_text(value))]


def _at(config: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        config = (config or {}).get(key)
    return config
