"""The sections of a report, from what lies below some folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_det.html_report import tables
from loco_det.html_report.blocks import Missing, RunCard, Section, shown_path, spelled_seconds
from loco_det.html_report.commands import tool_command
from loco_det.html_report.detection_sections import detection, detections
from loco_det.html_report.features_section import features
from loco_det.html_report.material import Material, gather
from loco_det.html_report.pretraining_sections import analyses, complexity, pretraining, readouts
from loco_det.html_report.reproduction import reproduction
from loco_det.html_report.runs import FINISHED, Run, run_facts
from pretrain.work_dir import git_revision

MOST_NAMES = 3  # of folders in the title


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
    material = gather(directories)
    sections = _sections(material, gallery, data_root)
    glance: list[tuple[str, str]] = []
    with sections[0].guarded("The most important numbers"):
        glance += _glance(material)
    moved = [] if data_root is None else ["--data-root", shown_path(data_root)]
    options = ["-o", shown_path(out), "--gallery", str(gallery), *moved]
    command = tool_command("report", *map(shown_path, material.directories), *options)
    return Contents(f"LoCo-Det: {_name(material.directories)}", glance, sections, command, git_revision())


def _sections(material: Material, gallery: int, data_root: str | Path | None) -> list[Section]:
    """All sections in order, filled."""
    return [_filled(section, fill, material, *options) for section, fill, *options in (
        (Section("runs", "What was run", "Every run with its settings, machine and messages stands further below."),
         _what_was_run),
        (Section("detection", "Detection and instance segmentation",
                 "Mask R-CNN on each backbone; AP in points, AP^bb of boxes and AP^mk of masks."), detection),
        (Section("readout", "Linear evaluation and kNN", "What frozen encoders are worth to a simple classifier."),
         readouts),
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
        (Section("reproduce", "How to get every number again", "Commands to type in the project's root, in this order. "
                 "Options were put together from what the runs recorded, against the config files of the tree that wrote "
                 "this report."), reproduction),
    )]


def _filled(section: Section, fill: Callable[..., None], *args: Any) -> Section:
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


def _glance(material: Material) -> list[tuple[str, str]]:
    runs = material.runs
    finished = sum(run.state == FINISHED for run in runs)
    seconds = [run.seconds for run in runs if run.seconds is not None]
    revisions = list(dict.fromkeys((run.revision or "not recorded")[:10] for run in runs))
    splits = sum(len(run.splits) for run in material.results)
    return [
        ("runs finished", f"{finished} of {len(runs)}"),
        ("detectors evaluated", str(splits)),
        ("readouts and analyses", str(len(material.records))),
        ("time of all runs", spelled_seconds(sum(seconds)) if seconds else "not recorded"),
        ("git revision" if len(revisions) < 2 else "git revisions", ", ".join(revisions) or "not recorded"),
    ]


def _what_was_run(section: Section, material: Material) -> None:
    if material.runs:
        section.add("Every run", tables.runs_table, material.runs, material.directories)
    else:
        section.add_missing("Runs", "no work directory of a pretraining or a detection experiment (run.json) was found")
    if material.records:
        section.add("Every readout and analysis", tables.records_table, material.records, material.directories)


def _details(section: Section, material: Material) -> None:
    for run in material.runs:
        section.add(run.name, _card, run)
    if not material.runs:
        section.add_missing("Runs", "none was found")


def _card(run: Run) -> RunCard:
    what = ", ".join(filter(None, [run.kind, run.method]))
    return RunCard(run.name, run.state, f"{what}: {run.progress}", [("folder", shown_path(run.path)), *run_facts(run)],
                   run.problems)
