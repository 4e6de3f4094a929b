"""Cityscapes in COCO's format: the instances of the 8 thing classes, from the ``instanceIds`` images of gtFine.

The files are those of mmdet's converter, apart from two things: images come in the order of their names, not in that of the
file system, and ids count from 1. pycocotools takes an object of id 0 for an unmatched one, which costs AP.

This module imports neither torch nor mmdet: worker processes start from it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import id2label, labels
from PIL import Image
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO

from loco_det.datasets.parallel import map_in_processes
from pretrain.engine.work_dir import check_writable, write_json
from pretrain.errors import RunFailedError

# images per city of the official release: 2,975 and 500
OFFICIAL_IMAGES = {
    "train": {
        "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221, "erfurt": 109,
        "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94, "strasbourg": 365,
        "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
    },
    "val": {"frankfurt": 267, "lindau": 59, "munster": 174},
}
THING_LABELS = tuple(label for label in labels if label.hasInstances and not label.ignoreInEval)
CLASSES = tuple(label.name for label in THING_LABELS)
IMAGE_SUFFIX, INSTANCES_SUFFIX, LABELS_SUFFIX = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_labelIds.png"
DOWNLOAD_HINT = ("leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are at https://www.cityscapes-dataset.com "
                 "(free registration); unzip both into the data root")

_FIRST_INSTANCE_ID = 1000  # label * 1000 + number; ids below are labels themselves: a region of a label without instances
_MAX_ID = np.iinfo(np.uint16).max
_THING_IDS = frozenset(label.id for label in THING_LABELS)


@dataclass(frozen=True)
class PreparedSplit:
    """What became of one split.

    Attributes:
        name: ``train`` or ``val``.
        ann_file: the annotations; None where the split has no images.
        num_images: images in it.
        num_empty: those of them without an object of the 8 classes.
        objects: number of objects of every class, group regions left out.
        num_groups: group regions (``iscrowd``).
        warnings: what differs from the official release.
    """

    name: str
    ann_file: Path | None
    num_images: int
    num_empty: int
    objects: dict[str, int]
    num_groups: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class PreparedCityscapes:
    """What :func:`prepare_cityscapes` has made of a data root."""

    splits: tuple[PreparedSplit, ...]

    def lines(self) -> list[str]:
        """The summary as lines of text, warnings after the split that they are about."""
        lines = []
        for split in self.splits:
            if split.ann_file is not None:
                counts = ", ".join(f"{name} {count:,}" for name, count in split.objects.items())
                lines.append(f"{split.name}: {split.num_images:,} images ({split.num_empty:,} without objects), "
                             f"{sum(split.objects.values()):,} objects ({counts}), {split.num_groups:,} group regions; "
                             f"verified -> {split.ann_file}")
            lines += [f"warning: {split.name}: {warning}" for warning in split.warnings]
        return lines


def annotation_file(data_root: str | Path, split: str) -> Path:
    """Where a split's annotations are: mmdet's name for them."""
    return Path(data_root) / "annotations" / f"instancesonly_filtered_gtFine_{split}.json"


def prepare_cityscapes(data_root: str | Path, workers: int | None = None) -> PreparedCityscapes:
    """Writes COCO-format annotations for train and val, then reads them back and compares every mask with its image.

    Trees that are not the official release (fewer images, other cities) are converted with a warning.

    Args:
        data_root: folder of ``leftImg8bit/{train,val}/<city>/`` and ``gtFine/{train,val}/<city>/``.
        workers: processes; None for as many as there are cores. The files do not depend on it.

    Returns:
        What was found and written.

    Raises:
        ValueError: there are no images, an image has no instanceIds file or one of another size, such a file is damaged or
            holds ids that are no labels of Cityscapes, or annotations cannot be written there. Nothing is written then.
        RunFailedError: the annotations made are not what the images say.
    """
    root = Path(data_root)
    found = {split: _find_images(root, split) for split in OFFICIAL_IMAGES}
    if not any(names for names, _ in found.values()):
        raise ValueError(f"{root} holds no image leftImg8bit/{{train,val}}/<city>/*{IMAGE_SUFFIX}; {DOWNLOAD_HINT}")
    check_writable(root / "annotations")
    converted = {
        split: _convert(root, split, names, workers) for split, (names, _) in found.items() if names
    }  # all of it before the first file is written
    prepared = []
    for split, (names, warnings) in found.items():
        if names:
            ann_file = annotation_file(root, split)
            _write_verified(ann_file, converted[split], root / "gtFine" / split, workers)
            prepared.append(_summarize(split, ann_file, converted[split], warnings))
        else:
            prepared.append(PreparedSplit(split, None, 0, 0, dict.fromkeys(CLASSES, 0), 0, warnings))
    return PreparedCityscapes(tuple(prepared))


def instance_ids_file(folder: Path, image_name: str) -> Path:
    """The instanceIds file below ``folder`` of an image ``<city>/<name>_leftImg8bit.png``."""
    return folder / (image_name.removesuffix(IMAGE_SUFFIX) + INSTANCES_SUFFIX)


def read_instance_ids(file: Path) -> np.ndarray:
    """An instanceIds image: ``(H, W)`` uint16; ``label * 1000 + number`` in objects, the label itself elsewhere.

    Raises:
        ValueError: it is damaged, no gray image of 16 bits, or holds an id of no label of Cityscapes.
    """
    try:
        with Image.open(file) as image:
            mode, ids = image.mode, np.asarray(image)
    except Exception as error:  # damaged files raise nearly anything
        raise _corrupt(file, error, "gtFine_trainvaltest.zip") from error
    _check_mode(file, mode)
    for value in np.unique(ids).tolist():
        if value < 0 or _label_id(value) not in id2label:
            raise ValueError(f"{file} holds the id {value}, which is of no label of Cityscapes; a gtFine "
                             f"*{INSTANCES_SUFFIX} file is needed")
    return ids.astype(np.uint16, copy=False)  # PIL decodes to int32 in older versions


def instance_ids_size(file: Path) -> tuple[int, int]:
    """Width and height of an instanceIds image; only its header is read.

    Raises:
        ValueError: the header is damaged, or not that of a gray image of 16 bits.
    """
    try:
        with Image.open(file) as image:
            mode, size = image.mode, image.size
    except Exception as error:
        raise _corrupt(file, error, "gtFine_trainvaltest.zip") from error
    _check_mode(file, mode)
    return size


def find_objects(ids: np.ndarray) -> list[dict[str, Any]]:
    """The objects and group regions of the 8 thing classes in an instanceIds image.

    Args:
        ids: ``(H, W)`` uint16, see :func:`read_instance_ids`.

    Returns:
        By ascending id, COCO's ``iscrowd`` (1 for group regions), ``category_id`` (Cityscapes' label id), ``bbox``, ``area``
        and ``segmentation`` (compressed RLE, as text).
    """
    height, width = ids.shape
    by_column = ids.T.ravel()  # (W * H,): COCO's runs go down the columns
    is_thing = np.zeros(_MAX_ID + 1, dtype=bool)
    is_thing[[value for value in np.unique(by_column).tolist() if _is_thing(value)]] = True
    positions = np.flatnonzero(is_thing[by_column])
    values = by_column[positions]
    order = np.argsort(values, kind="stable")  # 16-bit integers: a radix sort; positions stay ascending within an object
    borders = np.flatnonzero(np.diff(values[order])) + 1
    objects = []
    for pixels in np.split(positions[order], borders) if positions.size else []:
        value = int(by_column[pixels[0]])
        columns, rows = np.divmod(pixels, height)
        x, y = int(columns[0]), int(rows.min())
        objects.append({
            "iscrowd": int(value < _FIRST_INSTANCE_ID),
            "category_id": _label_id(value),
            "bbox": [float(x), float(y), float(columns[-1] - x + 1), float(rows.max() - y + 1)],
            "area": len(pixels),
            "segmentation": _run_lengths(pixels, height, width),
        })
    return objects


def verify_annotations(ann_file: Path, gt_dir: Path, workers: int | None = None) -> None:
    """Compares every mask of an annotation file, as pycocotools reads it, with the instanceIds images.

    Args:
        ann_file: what :func:`prepare_cityscapes` writes.
        gt_dir: ``gtFine/<split>``.
        workers: processes; None for as many as there are cores.

    Raises:
        RunFailedError: names the first difference.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # what it prints tells a user nothing
        written = COCO(str(ann_file))
    jobs = [(instance_ids_file(gt_dir, image["file_name"]), written.imgToAnns[image["id"]])
            for image in written.loadImgs(written.getImgIds())]
    differences = map_in_processes(_difference, jobs, workers, description=f"verifying {gt_dir.name}")
    wrong = [difference for difference in differences if difference]
    if wrong:
        raise RunFailedError(f"the annotations are not what {gt_dir} says of {len(wrong)} images: {wrong[0]}; if the images "
                             "have not been changed meanwhile this is a fault of the program")


def _write_verified(ann_file: Path, content: dict[str, Any], gt_dir: Path, workers: int | None) -> None:
    """Writes an annotation file that has its name only once it is verified."""
    unverified = ann_file.with_name(f".{ann_file.name}.{os.getpid()}.unverified")
    try:
        write_json(unverified, content)
        verify_annotations(unverified, gt_dir, workers)
        unverified.replace(ann_file)
    finally:
        unverified.unlink(missing_ok=True)


def _corrupt(file: Path, error: Exception, archive: str) -> ValueError:
    return ValueError(f"{file} cannot be decoded ({error or type(error).__name__}); unzip {archive} anew")


def _check_mode(file: Path, mode: str) -> None:
    if not mode.startswith("I"):
        raise ValueError(f"{file} is an image of mode {mode}, not of 16-bit gray values; a gtFine *{INSTANCES_SUFFIX} file "
                         "is needed")


def _find_images(root: Path, split: str) -> tuple[list[str], tuple[str, ...]]:
    """Names ``<city>/<file>`` of a split's images, sorted, and what is unusual about them.

    Raises:
        ValueError: images lack their instanceIds files.
    """
    names = _names_below(root / "leftImg8bit" / split, IMAGE_SUFFIX)
    annotated = _names_below(root / "gtFine" / split, INSTANCES_SUFFIX)
    lacking = sorted(names - annotated)
    if lacking:
        file = instance_ids_file(root / "gtFine" / split, lacking[0] + IMAGE_SUFFIX)
        raise ValueError(f"{len(lacking):,} of {len(names):,} images in {root / 'leftImg8bit' / split} have no instanceIds "
                         f"file, {file} for one does not exist; unzip gtFine_trainvaltest.zip or take these images away")
    warnings = _differences_from_official(split, names)
    left_out = sorted(annotated - names)
    if left_out:
        warnings.append(f"instanceIds files left out because their images are missing: {len(left_out):,} "
                        f"({_first(left_out, 1)})")
    return [name + IMAGE_SUFFIX for name in sorted(names)], tuple(warnings)


def _names_below(folder: Path, suffix: str) -> set[str]:
    """``<city>/<name>`` of the files ``<name><suffix>``, hidden ones left out."""
    files = folder.glob(f"*/*{suffix}")
    return {f"{file.parent.name}/{file.name.removesuffix(suffix)}" for file in files if not file.name.startswith(".")}


def _differences_from_official(split: str, names: set[str]) -> list[str]:
    found = Counter(name.split("/")[0] for name in names)
    official = OFFICIAL_IMAGES[split]
    missing = {city: count - found[city] for city, count in official.items() if found[city] < count}
    others = sorted(found.keys() - official.keys())
    warnings = []
    if missing:
        cities = _first(f"{city} {count} of {official[city]}" for city, count in missing.items())
        total = sum(official.values())
        warnings.append(f"{sum(missing.values()):,} of the official {total:,} images are missing ({cities}); "
                        "results do not compare with published ones")
    if others:
        warnings.append("images of cities that this split of Cityscapes does not have: "
                        f"{sum(found[city] for city in others):,} ({_first(others)})")
    return warnings


def _first(names: Iterable[str], count: int = 5) -> str:
    """The first few, spelled out."""
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _convert(root: Path, split: str, names: list[str], workers: int | None) -> dict[str, Any]:
    """The content of a split's annotation file."""
    jobs = [(root / "leftImg8bit" / split / name, instance_ids_file(root / "gtFine" / split, name)) for name in names]
    results = map_in_processes(_read_objects, jobs, workers, description=f"converting {split}")
    images, annotations = [], []
    for image_id, (name, ((height, width), objects)) in enumerate(zip(names, results, strict=True), 1):
        segm_file = name.removesuffix(IMAGE_SUFFIX) + LABELS_SUFFIX
        images.append(dict(file_name=name, height=height, width=width, segm_file=segm_file, id=image_id))
        for found in objects:
            annotations.append({**found, "image_id": image_id, "id": len(annotations) + 1})
    categories = [dict(id=label.id, name=label.name) for label in THING_LABELS]
    return dict(images=images, categories=categories, annotations=annotations)


def _read_objects(files: tuple[Path, Path]) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Height and width of an image, and the objects in it."""
    image_file, ids_file = files
    ids = read_instance_ids(ids_file)
    height, width = ids.shape
    try:
        with Image.open(image_file) as image:  # its header only
            size = image.size
    except Exception as error:
        raise _corrupt(image_file, error, "leftImg8bit_trainvaltest.zip") from error
    if size != (width, height):
        raise ValueError(f"{ids_file} is {width} x {height} pixels but its image {image_file} {size[0]} x {size[1]}; both "
                         "must be of one release and neither resized")
    return (height, width), find_objects(ids)


def _run_lengths(pixels: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """COCO's compressed RLE of a mask, of the ascending column-major positions of its pixels."""
    breaks = np.flatnonzero(np.diff(pixels) > 1) + 1
    starts = pixels[np.r_[0, breaks]]
    ends = pixels[np.r_[breaks - 1, len(pixels) - 1]] + 1
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)  # outside, inside, outside, ...
    if counts[-1] == 0:
        counts = counts[:-1]
    rle = rle_codec.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _difference(job: tuple[Path, list[dict[str, Any]]]) -> str | None:
    """How an image's annotations differ from its instanceIds; None if they do not."""
    ids_file, annotations = job
    ids = np.ascontiguousarray(read_instance_ids(ids_file).T)  # (W, H): the order in memory of pycocotools' masks
    areas = np.bincount(ids.ravel())  # by value
    seen = set()
    for annotation in annotations:
        mask = rle_codec.decode(annotation["segmentation"]).view(bool).T  # (W, H)
        x, y, width, height = map(int, annotation["bbox"])
        box = np.s_[x:x + width, y:y + height]
        inside = mask[box]
        if mask.shape != ids.shape or not inside.any():
            return f"annotation {annotation['id']} of {ids_file} has a mask of {mask.shape} pixels or an empty one"
        value = int(ids[box][inside][0])
        correct = {
            "iscrowd": annotation["iscrowd"] == (value < _FIRST_INSTANCE_ID),
            "category_id": annotation["category_id"] == _label_id(value),
            "area": annotation["area"] == areas[value] == np.count_nonzero(mask),
            "bbox": inside[[0, -1]].any(axis=1).all() and inside[:, [0, -1]].any(axis=0).all(),
            "segmentation": np.array_equal(inside, ids[box] == value),  # nothing is outside, by the area
        }
        if not all(correct.values()):
            wrong = ", ".join(key for key, is_correct in correct.items() if not is_correct)
            return f"annotation {annotation['id']} of {ids_file} has a wrong {wrong}"
        seen.add(value)
    missed = {value for value in np.flatnonzero(areas).tolist() if _is_thing(value)} - seen
    return f"the ids {sorted(missed)} of {ids_file} are in no annotation" if missed else None


def _label_id(value: int) -> int:
    """The label of a value of an instanceIds image."""
    return value // _FIRST_INSTANCE_ID if value >= _FIRST_INSTANCE_ID else value


def _is_thing(value: int) -> bool:
    """Whether a value of an instanceIds image is of the 8 classes."""
    return _label_id(value) in _THING_IDS


def _summarize(split: str, ann_file: Path, content: dict[str, Any], warnings: tuple[str, ...]) -> PreparedSplit:
    names = {label.id: label.name for label in THING_LABELS}
    objects = Counter(names[a["category_id"]] for a in content["annotations"] if not a["iscrowd"])
    return PreparedSplit(
        name=split,
        ann_file=ann_file,
        num_images=len(content["images"]),
        num_empty=len(content["images"]) - len({a["image_id"] for a in content["annotations"]}),
        objects={name: objects[name] for name in CLASSES},
        num_groups=sum(a["iscrowd"] for a in content["annotations"]),
        warnings=warnings,
    )
