"""The commands that make the numbers of a report again: those that were typed, as the records have them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from loco_det.report.blocks import Commands, Section, shown_path
from loco_det.report.runs import FINISHED, Inputs, Run
from pretrain.results.store import DETECTION, PRETRAINING, Record

DIRTY = "-dirty"  # ends what git calls a tree with changes
RESUME = "--resume"


def tool_command(tool: str, *arguments: str | Path) -> str:
    """A command line of one of the project's tools, quoted for a shell."""
    return shlex.join(["python", f"tools/{tool}.py", *map(str, arguments)])


def recorded_command(argv: Sequence[str], processes: int = 1) -> str:
    """A command line that was recorded, as it is typed to start once more."""
    program, *arguments = argv
    launcher = ["python"] if processes == 1 else ["torchrun", "--nproc-per-node", str(processes)]
    program = shown_path(program) if Path(program).is_absolute() else program
    return shlex.join([*launcher, program, *(argument for argument in arguments if argument != RESUME)])


def commands(section: Section, inputs: Inputs) -> None:
    """Pretrainings, then what starts from them; within each of these by revision, a checkout wherever it changes."""
    runs = {run.record.path: run for run in inputs.runs if run.record is not None}
    revisions = list(dict.fromkeys(filter(None, map(_revision, inputs.records))))
    current = None
    for records in ([run.record for run in inputs.of_kind(PRETRAINING)], [run.record for run in inputs.of_kind(DETECTION)],
                    inputs.evaluations):
        # Those of unknown revision first, for they need no checkout; the others begin with the one that is checked out.
        order = [None, current, *revisions]
        shown: set[tuple] = set()
        for record in sorted(records, key=lambda record: order.index(_revision(record))):
            with section.guarded(f"Command of {shown_path(record.path)}"):
                block = _commands_of(record, runs.get(record.path))
                if (_revision(record), *block.lines) in shown:  # one command may make several records
                    continue
                shown.add((_revision(record), *block.lines))
                if _revision(record) not in (None, current):
                    current = _revision(record)
                    section.blocks.append(_source(current))
                section.blocks.append(block)
    if not section.blocks:
        section.add_missing("Commands", "there is no record of a run or an evaluation")


def _commands_of(record: Record, run: Run | None) -> Commands:
    content = record.content
    export = (content.get("backbone") or {}).get("argv")
    lines = [recorded_command(export)] if export else []
    lines.append(recorded_command(content["argv"], content.get("processes", 1)))
    notes = [] if _revision(record) else ["its source revision was not recorded"]
    if run is not None and run.state != FINISHED:
        notes.insert(0, f"it is not finished: with {RESUME} it goes on from its last checkpoint, if it has one")
    what = record.path if run is None else record.path.parent
    return Commands(f"{shown_path(what)}: {record.kind}, {record.method['label']}", lines, notes)


def _revision(record: Record) -> str | None:
    return str(record.content.get("git_revision") or "") or None


def _source(revision: str) -> Commands:
    """How to get the source tree that the commands below were typed in."""
    notes = ["the source tree had changes that are in no commit"] if revision.endswith(DIRTY) else []
    revision = revision.removesuffix(DIRTY)
    return Commands(f"Source of revision {revision[:10]}", [f"git checkout {revision}"], notes)
