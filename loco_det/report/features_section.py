"""What a report shows of features: maps of finished encoders' features of the objects that detectors are evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loco_det.report.blocks import ROOT, Block, Missing, Section, shown_path
from loco_det.report.figures import draw
from loco_det.report.runs import FINISHED, Inputs
from pretrain.engine.checkpoints import checkpoint_files
from pretrain.results.method import RANDOM
from pretrain.results.store import DETECTION, PRETRAINING, canonical

OBJECTS = 200  # few: a report must be quick
MOST_ENCODERS = 8
USUAL_FILES = ("annotations/instances_val2017.json", "val2017")  # which the source of objects finds by itself


def features(section: Section, inputs: Inputs, data_root: str | Path | None) -> None:
    """t-SNE of finished encoders' features, beside those of random weights."""
    section.add("t-SNE of features", _figures, inputs, data_root)


def _figures(inputs: Inputs, data_root: str | Path | None) -> Iterator[Block]:
    data = _validation_objects(inputs, data_root)
    files, left_out = _encoder_files(inputs)
    yield from left_out
    if not files:
        raise ValueError("no checkpoint of a finished pretraining, nor a backbone of a detector, can be used here")
    if len(files) > MOST_ENCODERS:
        yield Missing(f"t-SNE of more than {MOST_ENCODERS} encoders", "to be quick, the others are left out; "
                      "tools/visualize.py embed draws any")
    yield from draw("embed", [*files[:MOST_ENCODERS], RANDOM, *data, "--num", str(OBJECTS), "--workers", "0"])


def _validation_objects(inputs: Inputs, data_root: str | Path | None) -> list[str | Path]:
    """Arguments that name the objects of the first validation set that is here.

    Raises:
        ValueError: none is known, or none is here.
    """
    tried = []
    for run in inputs.of_kind(DETECTION):
        data = run.content.get("config", {}).get("data", {})
        root = data_root or run.content.get("data_root")
        if root is None or not {"val_ann", "val_images"} <= data.keys():
            continue
        if (Path(root) / data["val_ann"]).is_file():
            options = [f"annotations={data['val_ann']}", f"images={data['val_images']}"]
            usual = (data["val_ann"], data["val_images"]) == USUAL_FILES
            return ["--data", "coco_objects", *([] if usual else ["--data-options", *options]), "--data-root", Path(root)]
        tried.append(str(Path(root) / data["val_ann"]))
    if tried:
        raise ValueError(f"{tried[0]} is not there; say with --data-root where the detection data set is")
    raise ValueError("no detection experiment was found whose validation objects could be embedded; "
                     "tools/visualize.py embed draws any labelled images")


def _encoder_files(inputs: Inputs) -> tuple[list[Path], list[Missing]]:
    """The last checkpoint of every finished pretraining, and backbones of detectors that are not from one of these."""
    from pretrain.eval.features import load_encoder

    files = [checkpoint_files(run.path)[0] for run in inputs.of_kind(PRETRAINING)
             if run.state == FINISHED and checkpoint_files(run.path)]
    # Runs are started in the project's root, which relative paths lead on from.
    files += [ROOT / run.content["backbone"]["path"] for run in inputs.of_kind(DETECTION) if run.content.get("backbone")]
    chosen, left_out = {}, []
    for file in filter(Path.is_file, files):
        try:
            chosen.setdefault(canonical(load_encoder(str(file), None, 0)[1]["identity"]), file)
        except Exception as error:  # whatever a damaged file may lead to
            left_out.append(Missing(f"t-SNE of {shown_path(file)}", " ".join(str(error).split())))
    return list(chosen.values()), left_out
