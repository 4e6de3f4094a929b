"""What a report shows of detectors: tables and bars of AP, and what they find in images."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from loco_det.evaluation.results import RunResults
from loco_det.html_report import tables
from loco_det.html_report.blocks import Block, Missing, Section, shown_path
from loco_det.html_report.figures import draw
from loco_det.html_report.material import Material, one_of_each
from pretrain.checkpoint_files import checkpoint_files

WEAK_AP = 20.0  # points; detectors below give everything a low score and much of it: shown are each one's best guesses
WEAK_OPTIONS = ("--score", "0.1", "--most", "2")
SAME_DATA = ("images", "annotations", "categories")  # of annotations that are compared


def detection(section: Section, material: Material) -> None:
    """AP over the splits, drawn, and of every split."""
    for problem in material.problems:
        section.add_missing("A result of detection", problem)
    results, left_out = one_of_each(material.results)
    for line in left_out:
        section.add_missing("AP of a second run", line)
    section.add("AP of all methods", tables.ap_tables, results)
    if results:
        section.add("AP bars", draw, "ap", [run.source.parent for run in results])
        section.add("Every split", tables.splits_table, material.results)


def detections(section: Section, material: Material, images: int, data_root: str | Path | None) -> None:
    """Detections in some validation images of every data set."""
    if images == 0:
        section.add_missing("Gallery of detections", "left out, as --gallery 0 asks for")
        return
    trained = [run for run in material.results if run.splits]
    if not trained:
        section.add_missing("Gallery of detections", "no detector is trained yet; run tools/train_det.py first")
    for dataset in dict.fromkeys(run.dataset for run in trained):
        runs = [run for run in trained if run.dataset == dataset]
        section.add("Gallery of detections", _figures, runs, images, data_root)


def _figures(runs: Sequence[RunResults], images: int, data_root: str | Path | None) -> Iterator[Block]:
    """The figure of detectors of one data set, and what is said of those that are not in it."""
    split = _shown_split(runs)
    drawn, left_out = _drawable(runs, split, data_root)
    yield from left_out
    if not drawn:
        raise ValueError(f"none of the {len(runs)} runs on {runs[0].dataset} has a detector that can be used here")
    weak = max(run.mean_std("bbox").mean or 0.0 for run in drawn) < WEAK_AP
    shown = ["--split", str(split), "--num", str(images), *(WEAK_OPTIONS if weak else ())]
    moved = [] if data_root is None else ["--data-root", Path(data_root)]
    yield from draw("detections", [*(run.source.parent for run in drawn), *shown, *moved])


def _shown_split(runs: Sequence[RunResults]) -> int:
    """The split that most runs have a detector of, otherwise that most have finished."""
    finished = [(run, index) for run in runs for index in sorted(run.splits)]
    kept = [index for run, index in finished if checkpoint_files(run.source.parent / f"split_{index}")]
    return Counter(kept or [index for _, index in finished]).most_common(1)[0][0]


def _drawable(
    runs: Sequence[RunResults], split: int, data_root: str | Path | None
) -> tuple[list[RunResults], list[Missing]]:
    """The runs whose detectors can be drawn side by side, and why the others cannot."""
    from loco_det.figures.predictions import find_detector

    drawn, left_out, annotations = [], [], None
    for run in runs:
        try:
            detector = find_detector(run.source.parent, split, data_root)
            if not zipfile.is_zipfile(detector.checkpoint):
                raise ValueError(f"{detector.checkpoint} is truncated or no checkpoint")
            annotations = annotations or detector.annotations
            if any(detector.annotations[part] != annotations[part] for part in SAME_DATA):
                raise ValueError(f"it was evaluated on other data than {shown_path(drawn[0].source.parent)}")
            drawn.append(run)
        except Exception as error:  # whatever a damaged run may lead to
            title = f"Detections of {run.method} in {shown_path(run.source.parent)}"
            left_out.append(Missing(title, " ".join(str(error).split())))
    return drawn, left_out
