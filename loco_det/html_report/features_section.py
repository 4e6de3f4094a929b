"""What a report shows of features: maps of finished encoders' features of the objects that detectors are evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loco_det.html_report.blocks import Block, Missing, Section, recorded_place, shown_path
from loco_det.html_report.figures import draw
from loco_det.html_report.material import Material
from loco_det.html_report.runs import DETECTION, FINISHED, PRETRAINING
from pretrain.checkpoint_files import checkpoint_files
from pretrain.readout.encoders import RANDOM

OBJECTS = 200  # few: a report must be quick
MOST_ENCODERS = 8
USUAL_FILES = ("annotations/instances_val2017.json", "val2017")  # which the source of objects finds by itself


def features(section: Section, material: Material, data_root: str | Path | None) -> None:
    """t-SNE of finished encoders' features, beside those of random weights."""
    section.add("t-SNE of features", _figures, material, data_root)


def _figures(material: Material, data_root: str | Path | None) -> Iterator[Block]:
    data = _validation_objects(material, data_root)
    files, left_out = _encoder_files(material)
    yield from left_out
    if not files:
        raise ValueError("no checkpoint of a finished pretraining, nor a backbone of a detector, can be used here")
    if len(files) > MOST_ENCODERS:
        yield Missing(f"t-SNE of more than {MOST_ENCODERS} encoders", "to be quick, the others are left out; "
                      "tools/visualize.py embed draws any")
    yield from draw("embed", [*files[:MOST_ENCODERS], RANDOM, *data, "--num", str(OBJECTS), "--workers", "0"])


def _validation_objects(material: Material, data_root: str | Path | None) -> list[str | Path]:
    """Arguments that name the objects of the first validation set that is here.

    Raises:
        ValueError: none is known, or none is here.
    """
    tried = []
    for run in material.of_kind(DETECTION):
        data = run.logs.config.get("data") or run.config.get("data") or {}
        if not {"root", "val_ann", "val_images"} <= data.keys():
            continue
        root = recorded_place(data["root"] if data_root is None else data_root)
        if (root / data["val_ann"]).is_file():
            options = [f"annotations={data['val_ann']}", f"images={data['val_images']}"]
            usual = (data["val_ann"], data["val_images"]) == USUAL_FILES
            return ["--data", "coco_objects", *([] if usual else ["--data-options", *options]), "--data-root", root]
        tried.append(str(root / data["val_ann"]))
    if tried:
        raise ValueError(f"{tried[0]} is not there; say with --data-root where the detection data set is")
    raise ValueError("no detection experiment was found whose validation objects could be embedded; "
                     "tools/visualize.py embed draws any labelled images")


def _encoder_files(material: Material) -> tuple[list[Path], list[Missing]]:
    """The last checkpoint of every finished pretraining, and backbones of detectors that are from none of these."""
    from pretrain.readout.encoders import load_encoder

    checkpoints = [checkpoint_files(run.path)[0] for run in material.of_kind(PRETRAINING)
                   if run.state == FINISHED and checkpoint_files(run.path)]
    backbones = [recorded_place(run.backbone.path) for run in material.of_kind(DETECTION) if run.backbone is not None]
    chosen, left_out = {}, []
    for file in [*checkpoints, *filter(Path.is_file, backbones)]:
        try:
            origin = load_encoder(str(file), None, 0)[1]
            trained = origin["meta"].get("config_sha256"), origin["meta"].get("epoch")
            chosen.setdefault(origin["sha256"] if None in trained else trained, file)
        except Exception as error:  # whatever a damaged file may lead to
            left_out.append(Missing(f"t-SNE of {shown_path(file)}", " ".join(str(error).split())))
    return list(chosen.values()), left_out
