"""How to get every number of a report again: commands in an order in which they work, with the source of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loco_det.html_report.blocks import Commands, Section, shown_path
from loco_det.html_report.commands import export_command, run_command
from loco_det.html_report.material import Material
from loco_det.html_report.readout_commands import record_command
from loco_det.html_report.records import Record
from loco_det.html_report.runs import DETECTION, FINISHED, PRETRAINING, Run, image_folder
from pretrain.checkpoint_files import checkpoint_files

DIRTY = "-dirty"  # ends what git calls a tree with changes


def reproduction(section: Section, material: Material) -> None:
    """Pretrainings, then what starts from them; within each of these by revision, a checkout wherever it changes."""
    stages: list[Sequence[Run | Record]] = [
        material.of_kind(PRETRAINING), [run for run in material.runs if run.kind != PRETRAINING], material.records]
    revisions = list(dict.fromkeys(item.revision for stage in stages for item in stage if item.revision))
    places = {Path(place).name: shown_path(place) for run in material.of_kind(PRETRAINING) if (place := image_folder(run))}
    current = None
    for stage in stages:
        # Those of unknown revision first: they take no checkout. The others begin with the one that is checked out.
        order = [None, current, *revisions]
        for item in sorted(stage, key=lambda item: order.index(item.revision)):
            if item.revision not in (None, current):
                current = item.revision
                section.blocks.append(_source(current))
            if isinstance(item, Run):
                section.add(f"Command of {shown_path(item.path)}", _run_commands, item, material)
            else:
                section.add(f"Command of {shown_path(item.file)}", _record_commands, item, places)
    if not section.blocks:
        section.add_missing("Commands", "neither a run nor a readout was found; tables and figures tell their own")


def _source(revision: str) -> Commands:
    """How to get the source tree that the commands below were typed in."""
    notes = ["the source tree had changes that are in no commit"] if revision.endswith(DIRTY) else []
    revision = revision.removesuffix(DIRTY)
    return Commands(f"Source of revision {revision[:10]}", [f"git checkout {revision}"], notes)


def _run_commands(run: Run, material: Material) -> Commands:
    line, notes = run_command(run)
    before = None
    if run.kind == DETECTION:
        before = export_command(run, material.of_kind(PRETRAINING), material.directories)
    if run.state != FINISHED and (run.kind == DETECTION or checkpoint_files(run.path)):
        notes = [*notes, "it is not finished: with --resume it goes on from its last checkpoint"]
    return Commands(f"{run.name}: {run.kind}, {run.method} on {run.data}", [*filter(None, [before]), line],
                    [*notes, *_source_notes(run.revision)])


def _record_commands(record: Record, places: Mapping[str, str]) -> Commands:
    line, notes = record_command(record.content, _checkpoint_of(record), places)
    return Commands(f"{shown_path(record.file)}: {record.kind}, {record.method}", [line],
                    [*notes, *_source_notes(record.revision)])


def _source_notes(revision: str | None) -> list[str]:
    return [] if revision else ["its source revision was not recorded"]


def _checkpoint_of(record: Record) -> str:
    """The file that was read out: what the folder beside it is called after."""
    name = (record.content.get("encoder") or {}).get("file") or record.content.get("checkpoint", "")
    beside = record.file.parent.with_suffix("").parent / Path(name).name
    return shown_path(beside) if beside.is_file() else name
