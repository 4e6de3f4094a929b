"""The sections of a report, from what lies below some folders."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loco_det.ap_rows import run_grid
from loco_det.html_report import tables
from loco_det.html_report.blocks import Commands, Missing, RunCard, Section, shown_path, spelled_seconds
from loco_det.html_report.commands import export_command, run_command, tool_command
from loco_det.html_report.figures import draw, embedded
from loco_det.html_report.material import Material, gather
from loco_det.html_report.readout_commands import record_command
from loco_det.html_report.runs import DETECTION, FINISHED, PRETRAINING, Run, image_folder, run_facts
from pretrain.training_log import read_training_log
from pretrain.work_dir import git_revision

MOST_NAMES = 3  # of folders in the title
WEAK_AP = 20.0  # points; detectors below give everything a low score and much of it: shown are each one's best guesses
WEAK_OPTIONS = ("--score", "0.1", "--most", "2")
ANALYSES = ("probes", "spectrum", "kept")


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
    sections = [
        _what_was_run(material), _detection(material), _readouts(material), _analyses(material), _pretraining(material),
        _complexity(material), _gallery(material, gallery, data_root), _details(material), _reproduction(material),
    ]
    moved = [] if data_root is None else ["--data-root", shown_path(data_root)]
    options = ["-o", shown_path(out), "--gallery", str(gallery), *moved]
    command = tool_command("report", *map(shown_path, material.directories), *options)
    return Contents(f"LoCo-Det: {_name(material.directories)}", _glance(material), sections, command, git_revision())


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
        ("readouts and analyses", str(len(material.readouts) + len(material.analyses))),
        ("time of all runs", spelled_seconds(sum(seconds)) if seconds else "not recorded"),
        ("git revision" if len(revisions) < 2 else "git revisions", ", ".join(revisions) or "not recorded"),
    ]


def _what_was_run(material: Material) -> Section:
    section = Section("runs", "What was run", "Every run with its settings, machine and messages stands further below.")
    if material.runs:
        section.add("Every run", tables.runs_table, material.runs, material.directories)
    else:
        section.add_missing("Runs", "no work directory of a pretraining or a detection experiment (run.json) was found")
    if records := [*material.readouts, *material.analyses]:
        section.add("Every readout and analysis", tables.records_table, records, material.directories)
    return section


def _detection(material: Material) -> Section:
    section = Section("detection", "Detection and instance segmentation",
                      "Mask R-CNN on each backbone; AP in points, AP^bb of boxes and AP^mk of masks.")
    for problem in material.problems:
        section.add_missing("A result of detection", problem)
    section.add("AP of all methods", tables.ap_tables, material.results)
    if material.results:
        section.add("AP bars", draw, "ap", [shown_path(run.source.parent) for run in material.results])
        section.add("Every split", tables.splits_table, material.results)
    return section


def _readouts(material: Material) -> Section:
    section = Section("readout", "Linear evaluation and kNN", "What frozen encoders are worth to a simple classifier.")
    section.add("Accuracy of readouts", tables.accuracy_tables, material.directories)
    rules = [((record.get("encoder") or {}).get("meta") or {}).get("rule") for _, record in material.readouts]
    if any("decoupled" in json.dumps(rule) for rule in rules):
        section.add("Accuracy of decoupled pretraining", tables.subsampling_tables, material.directories)
    return section


def _analyses(material: Material) -> Section:
    section = Section("analyses", "Depth, spectrum and kept pairs",
                      "The analyses of Fournier et al., 2023: what every depth knows, and how much of its space it uses.")
    subsampled = [run for run in _logged(material.of_kind(PRETRAINING)) if _threshold(run) is not None]
    for what in ANALYSES:
        # pairs that were kept are in the logs of pretrainings, too
        paths = [run.path for run in subsampled] if what == "kept" and subsampled else material.directories
        section.add(what.capitalize(), draw, what, list(map(shown_path, paths)))
    return section


def _threshold(run: Run) -> float | None:
    """The similarity below which a pretraining left pairs out; None where it took all."""
    return (run.config.get("model", {}).get("subsampling") or {}).get("threshold")


def _logged(runs: Iterable[Run]) -> list[Run]:
    """Those of pretrainings that have logged something."""
    logged = []
    for run in runs:
        with contextlib.suppress(ValueError, OSError):
            read_training_log(run.path)
            logged.append(run)
    return logged


def _pretraining(material: Material) -> Section:
    section = Section("pretraining", "Pretraining")
    runs = material.of_kind(PRETRAINING)
    if not runs:
        section.add_missing("Learning rules and curves", "no pretraining was found; run tools/pretrain.py first")
        return section
    section.add("Learning rules", draw, "units", [shown_path(run.path) for run in _distinct(runs)])
    if logged := _logged(runs):
        section.add("Curves", draw, "curves", [shown_path(run.path) for run in logged])
    else:
        section.add_missing("Curves", "no pretraining has logged anything yet")
    return section


def _distinct(runs: Iterable[Run]) -> list[Run]:
    """The first run of every learning rule on every encoder."""
    seen = {}
    for run in runs:
        model = run.config.get("model")
        if model is not None:
            key = json.dumps([model["encoder"], model["rule"], model.get("decoder")], sort_keys=True)
            seen.setdefault(key, run)
    return list(seen.values())


def _complexity(material: Material) -> Section:
    section = Section("complexity", "Computation and memory", "What each encoder costs at the size that it was pretrained "
                      "on; FLOPs are multiply-adds, memory is counted as in the LoCo paper's Table 6.")
    encoders = tables.encoders_of(run for run in material.runs if run.config)
    if not encoders:
        section.add_missing("Complexity", "no pretraining was found, so that no encoder is known")
    for encoder, size in encoders:
        section.add(f"Costs of {tables.spelled_options(encoder)}", tables.complexity_table, encoder, size)
        section.add(f"Costs of {tables.spelled_options(encoder)}, drawn", _complexity_figures, encoder, size, material)
    return section


def _complexity_figures(encoder: Any, size: int, material: Material) -> Iterator[Any]:
    from pretrain.figures.complexity import draw_memory_savings, draw_stage_costs

    runs = [run for run in material.of_kind(PRETRAINING) if run.config and run.config["model"]["encoder"] == encoder]
    batch_size = round(statistics.median(run.config["train_dataloader"]["batch_size"] for run in runs))
    name = tables.spelled_options(encoder)
    options = {"type": encoder} if isinstance(encoder, str) else dict(encoder)
    if set(options) == {"type"}:
        yield from draw("complexity", [name, "--input-size", str(size), "--batch-size", str(batch_size)])
    else:  # the command line cannot spell options
        yield embedded(draw_stage_costs({name: encoder}, size), "FLOPs and memory of every stage")
        yield embedded(draw_memory_savings({name: encoder}, batch_size, size), "Memory of a step that local learning saves")


def _gallery(material: Material, images: int, data_root: str | Path | None) -> Section:
    section = Section("gallery", "Detections", "Random validation images: ground truth, then every backbone's detector.")
    if images == 0:
        section.add_missing("Gallery of detections", "left out, as --gallery 0 asks for")
    else:
        section.add("Gallery of detections", _gallery_figures, material, images, data_root)
    return section


def _gallery_figures(material: Material, images: int, data_root: str | Path | None) -> Iterator[Any]:
    trained = [run for run in material.results if run.splits]
    if not trained:
        raise ValueError("no detector is trained yet; run tools/train_det.py first")
    moved = [] if data_root is None else ["--data-root", shown_path(data_root)]
    for dataset in dict.fromkeys(run.dataset for run in trained):
        runs = run_grid(run for run in trained if run.dataset == dataset).runs.values()
        split = Counter(index for run in runs for index in sorted(run.splits)).most_common(1)[0][0]
        folders = [shown_path(run.source.parent) for run in runs if split in run.splits]
        weak = max(run.mean_std("bbox").mean or 0.0 for run in runs) < WEAK_AP
        shown = ["--split", str(split), "--num", str(images), *(WEAK_OPTIONS if weak else ())]
        yield from draw("detections", [*folders, *shown, *moved])


def _details(material: Material) -> Section:
    section = Section("details", "Every run in detail")
    for run in material.runs:
        what = ", ".join(filter(None, [run.kind, run.method]))
        section.blocks.append(RunCard(run.name, run.state, f"{what}: {run.progress}",
                                      [("folder", shown_path(run.path)), *run_facts(run)], run.problems))
    if not material.runs:
        section.add_missing("Runs", "none was found")
    return section


def _reproduction(material: Material) -> Section:
    section = Section("reproduce", "How to get every number again",
                      "Commands to type in the project's root, in this order. Options were put together from what the runs "
                      "recorded, against the config files of the tree that wrote this report.")
    if any(run.revision for run in material.runs):
        section.blocks.append(_source(material.runs))
    for run in material.runs:
        section.add(f"Command of {shown_path(run.path)}", _run_commands, run, material)
    places = {Path(place).name: shown_path(place) for run in material.of_kind(PRETRAINING) if (place := image_folder(run))}
    for file, record in [*material.readouts, *material.analyses]:
        section.add(f"Command of {shown_path(file)}", _record_commands, file, record, places)
    if not section.blocks:
        section.add_missing("Commands", "neither a run nor a readout was found; tables and figures tell their own")
    return section


def _source(runs: Sequence[Run]) -> Commands:
    """How to get the source tree that the runs were made with."""
    revisions = list(dict.fromkeys(run.revision for run in runs if run.revision))
    notes = []
    if len(revisions) > 1:
        notes.append("the runs are of several revisions: \"Every run\" tells which is whose")
    if any(revision.endswith("-dirty") for revision in revisions):
        notes.append("the source tree had changes that are in no commit")
    return Commands("Source", [f"git checkout {revision.removesuffix('-dirty')}" for revision in revisions], notes)


def _run_commands(run: Run, material: Material) -> Commands:
    line, notes = run_command(run)
    before = None
    if run.kind == DETECTION:
        before = export_command(run, material.of_kind(PRETRAINING), material.directories)
    if run.state != FINISHED:
        notes = [*notes, "it is not finished: with --resume it goes on from its last checkpoint"]
    return Commands(f"{run.name}: {run.kind}, {run.method} on {run.data}", [*filter(None, [before]), line], notes)


def _record_commands(file: Path, record: dict[str, Any], places: Mapping[str, str]) -> Commands:
    line, notes = record_command(record, _checkpoint_of(file, record), places)
    return Commands(f"{shown_path(file)}: {tables.record_kind(record)}, {tables.record_method(record)}", [line], notes)


def _checkpoint_of(file: Path, record: dict[str, Any]) -> str:
    """The file that was read out: what the folder beside it is called after."""
    name = (record.get("encoder") or {}).get("file") or record.get("checkpoint", "")
    beside = file.parent.with_suffix("").parent / Path(name).name
    return shown_path(beside) if beside.is_file() else name
