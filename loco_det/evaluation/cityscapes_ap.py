"""Cityscapes' official instance-level AP, computed by cityscapesscripts, and the check that its ground truth is there.

This module imports neither torch nor mmdet: worker processes start from it, and the check must not wait for them.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as official
import numpy as np
from cityscapesscripts.helpers.labels import name2label
from PIL import Image
from pycocotools import mask as rle_codec

from loco_det.datasets.cityscapes import (
    CLASSES,
    DOWNLOAD_HINT,
    IMAGE_SUFFIX,
    instance_ids_file,
    instance_ids_size,
    read_instance_ids,
)
from loco_det.datasets.parallel import map_in_processes

if not hasattr(np, "in1d"):  # cityscapesscripts calls it; numpy 2.4 has only its successor
    np.in1d = np.isin


@dataclass(frozen=True)
class ImagePredictions:
    """What a detector found in one image.

    Attributes:
        ground_truth: the image's instanceIds file.
        label_ids: ``(n,)`` Cityscapes' label ids.
        scores: ``(n,)`` any real numbers.
        masks: n masks, compressed RLE as pycocotools encodes it, of the image's size.
    """

    ground_truth: Path
    label_ids: Sequence[int]
    scores: Sequence[float]
    masks: Sequence[dict[str, Any]]


def official_ap(predictions: Sequence[ImagePredictions], workers: int | None = None) -> dict[str, float]:
    """AP as the Cityscapes benchmark defines it: of masks, over the 8 thing classes and the overlaps 0.50 to 0.95.

    Unlike COCO's it integrates the precision-recall curve itself, leaves objects of fewer than 100 pixels out, has no limit
    of detections per image, and ignores predictions that lie mostly on group regions or unlabelled pixels.

    Args:
        predictions: of every image of the split, those without a detection included.
        workers: processes; None for as many as there are cores. A mask costs some 10 ms at 2048 x 1024 pixels.

    Returns:
        ``AP`` and ``AP50``, points 0 to 100; NaN where there is no object at all. A class without objects is left out.

    Raises:
        ValueError: a ground truth file does not exist, is damaged, or is of another size than the masks.
    """
    lacking = [p.ground_truth for p in predictions if not p.ground_truth.is_file()]
    if lacking:
        raise _lacking_ground_truth(lacking, len(predictions))
    matches = {}
    for match in map_in_processes(_match, predictions, workers, description="official AP"):
        matches |= match
    args = _arguments()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # NaN says it
        averages = official.computeAverages(official.evaluateMatches(matches, args), args)
    return {"AP": 100 * float(averages["allAp"]), "AP50": 100 * float(averages["allAp50%"])}


def class_label_ids(classes: Iterable[str]) -> list[int]:
    """Cityscapes' label ids of classes.

    Raises:
        ValueError: one is none of the 8 that the benchmark evaluates.
    """
    names = list(classes)
    unknown = [name for name in names if name not in CLASSES]
    if unknown:
        raise ValueError(f"class {unknown[0]!r} is none of those that the Cityscapes benchmark evaluates: "
                         f"{', '.join(CLASSES)}; set data.official_gt=None to evaluate other classes by COCO's AP alone")
    return [name2label[name].id for name in names]


def ground_truth_file(root: str | Path, image_file: str | Path) -> Path:
    """The instanceIds file of an image, ``<root>/<city>/<name>_gtFine_instanceIds.png``.

    Args:
        root: ``gtFine/<split>``.
        image_file: a path that ends in ``<city>/<name>_leftImg8bit.png``.

    Raises:
        ValueError: it does not.
    """
    image_file = Path(image_file)
    if not image_file.name.endswith(IMAGE_SUFFIX) or not image_file.parent.name:
        raise ValueError(f"image {image_file} is not named <city>/<name>{IMAGE_SUFFIX}, so that its official ground truth "
                         "cannot be found; set data.official_gt=None to evaluate by COCO's AP alone")
    return instance_ids_file(Path(root), f"{image_file.parent.name}/{image_file.name}")


def check_official_ground_truth(root: str | Path, images: Iterable[Mapping[str, Any]]) -> None:
    """Checks that every image has the file which the official AP will compare it with, of the same size; reads headers only.

    Args:
        root: ``gtFine/<split>``.
        images: entries of an annotation file: ``file_name``, that is ``<city>/<name>_leftImg8bit.png`` or a path that ends
            so, and ``width`` and ``height`` in pixels.

    Raises:
        ValueError: files are missing (says how many and names the first), or one is no instanceIds file of the image's size.
    """
    sizes = {ground_truth_file(root, image["file_name"]): (image["width"], image["height"]) for image in images}
    lacking = [file for file in sizes if not file.is_file()]
    if lacking:
        raise _lacking_ground_truth(lacking, len(sizes))
    for file, (width, height) in sizes.items():
        found = instance_ids_size(file)
        if found != (width, height):
            raise ValueError(f"{file} is {found[0]} x {found[1]} pixels, but its image is annotated as {width} x {height}; "
                             "both must be of one release and neither resized")


def _lacking_ground_truth(lacking: Sequence[Path], total: int) -> ValueError:
    return ValueError(f"the official ground truth of {len(lacking)} of {total} images is missing, {lacking[0]} for one; "
                      f"{DOWNLOAD_HINT}")


def _match(prediction: ImagePredictions) -> dict[str, Any]:
    """cityscapesscripts' table of which predictions of an image overlap which objects, by how many pixels.

    Its functions are called one by one: ``evaluateImgLists`` would write ``matches.json`` into the current folder, and keep
    all masks of all images as files until it is finished.
    """
    size = read_instance_ids(prediction.ground_truth).shape  # cityscapesscripts does not say which file is damaged
    with tempfile.TemporaryDirectory(prefix="cityscapes_ap_") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`in1d` is deprecated", DeprecationWarning)
        args = _arguments(folder)
        lines = []
        for i, (label_id, score, rle) in enumerate(
            zip(prediction.label_ids, prediction.scores, prediction.masks, strict=True)
        ):
            mask = rle_codec.decode(rle).view(bool)  # (H, W), in Fortran's order
            if mask.shape != size:
                raise ValueError(f"{prediction.ground_truth} is {size[1]} x {size[0]} pixels, but masks of "
                                 f"{mask.shape[1]} x {mask.shape[0]} are predicted; both must be of one release")
            by_column = Image.fromarray(mask.T)  # PIL transposes faster than numpy
            by_column.transpose(Image.Transpose.TRANSPOSE).save(Path(folder) / f"{i}.png", compress_level=1)
            lines.append(f"{i}.png {label_id} {float(score)!r}\n")
        table = Path(folder) / "predictions.txt"
        table.write_text("".join(lines))
        truth = [str(prediction.ground_truth)]
        return official.matchGtWithPreds([str(table)], truth, official.instances2dict(truth), args)


def _arguments(prediction_folder: str | None = None) -> official.CArgs:
    """cityscapesscripts' settings as they are, silent, in an object of our own: its own one is global."""
    args = copy.copy(official.args)
    args.quiet, args.predictionPath = True, prediction_folder
    official.setInstanceLabels(args)
    return args
