"""What a report shows of detectors: bars of AP, and what they find in images."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from loco_det.report.blocks import Block, Missing, Section, shown_path
from loco_det.report.figures import draw
from loco_det.report.runs import Inputs, Run
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.results.store import DETECTION

WEAK_AP = 20.0  # points; of weaker detectors, which give all they find a low score, the best guesses are shown
WEAK_OPTIONS = ("--score", "0.1", "--most", "2")
SAME_DATA = ("images", "annotations", "categories")  # of annotations that are compared


def ap_bars(section: Section, inputs: Inputs) -> None:
    """AP over the splits, drawn."""
    if runs := [run for run in inputs.of_kind(DETECTION) if run.splits]:
        section.add("AP bars", draw, "ap", [run.path for run in runs])
    else:
        section.add_missing("AP", "no detector is evaluated yet; run tools/train_det.py first")


def detections(section: Section, inputs: Inputs, images: int, data_root: str | Path | None) -> None:
    """Detections in some validation images of every data set."""
    trained = [run for run in inputs.of_kind(DETECTION) if run.splits]
    if images == 0:
        section.add_missing("Gallery of detections", "left out, as --gallery 0 asks for")
        return
    if not trained:
        section.add_missing("Gallery of detections", "no detector is trained yet; run tools/train_det.py first")
    for dataset in dict.fromkeys(run.data for run in trained):
        section.add("Gallery of detections", _figures, [run for run in trained if run.data == dataset], images, data_root)


def _figures(runs: Sequence[Run], images: int, data_root: str | Path | None) -> Iterator[Block]:
    """The figure of detectors of one data set, and why others are not in it."""
    split = _shown_split(runs)
    drawn, left_out = _drawable(runs, split, data_root)
    yield from left_out
    if not drawn:
        raise ValueError(f"none of the {len(runs)} runs on {runs[0].data} has a detector that can be used here")
    shown = ["--split", str(split), "--num", str(images), *(WEAK_OPTIONS if max(map(_best_ap, drawn)) < WEAK_AP else ())]
    moved = [] if data_root is None else ["--data-root", Path(data_root)]
    yield from draw("detections", [*(run.path for run in drawn), *shown, *moved])


def _best_ap(run: Run) -> float:
    """The highest AP of any split, of whichever task."""
    return max((row["value"] or 0.0 for record in run.splits.values() for row in record.content["rows"]
                if row["metric"].endswith("_AP") and "class_name" not in row), default=0.0)


def _shown_split(runs: Sequence[Run]) -> int:
    """The split that most runs have a detector of, otherwise that most have finished."""
    finished = [(run, index) for run in runs for index in run.splits]
    kept = [index for run, index in finished if checkpoint_files(run.path / f"split_{index}")]
    return Counter(kept or [index for _, index in finished]).most_common(1)[0][0]


def _drawable(runs: Sequence[Run], split: int, data_root: str | Path | None) -> tuple[list[Run], list[Missing]]:
    """The runs whose detectors can be drawn side by side, and why the others cannot."""
    from loco_det.figures.predictions import VAL_ANNOTATIONS, find_detector

    drawn, left_out, annotations = [], [], None
    for run in runs:
        try:
            for file in (run.path / VAL_ANNOTATIONS, *checkpoint_files(run.path / f"split_{split}")[:1]):
                if file.exists() and not file.is_file():  # such as a named pipe, which nobody writes to
                    raise ValueError(f"{file} is not a file")
            detector = find_detector(run.path, split, data_root)
            if not zipfile.is_zipfile(detector.checkpoint):
                raise ValueError(f"{detector.checkpoint} is truncated or not a checkpoint")
            annotations = annotations or detector.annotations
            if any(detector.annotations[part] != annotations[part] for part in SAME_DATA):
                raise ValueError(f"it was evaluated on other data than {shown_path(drawn[0].path)}")
            drawn.append(run)
        except Exception as error:  # whatever a damaged run may lead to
            left_out.append(Missing(f"Detections of {run.method} in {shown_path(run.path)}", " ".join(str(error).split())))
    return drawn, left_out
