"""Cityscapes in COCO's format: the instances of the 8 thing classes, from the ``instanceIds`` images of gtFine.

The files are those of mmdet's converter, apart from two things: images come in the order of their names, not in that of the
file system, and ids count from 1, since pycocotools takes an object of id 0 for an unmatched one.

This module imports neither torch nor mmdet: worker processes start from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import id2label, labels
from PIL import Image
from pycocotools import mask as rle_codec

from loco_det.datasets.coco import DataCheck, category_names, check_annotation_file
from loco_det.datasets.parallel import map_in_processes
from pretrain.engine.cli import note
from pretrain.engine.work_dir import check_writable, write_json

OFFICIAL_IMAGES = {"train": 2_975, "val": 500}
THING_LABELS = tuple(label for label in labels if label.hasInstances and not label.ignoreInEval)
CLASSES = tuple(label.name for label in THING_LABELS)
IMAGE_SUFFIX, INSTANCES_SUFFIX, LABELS_SUFFIX = "_leftImg8bit.png", "_gtFine_instanceIds.png", "_gtFine_labelIds.png"
DOWNLOAD_HINT = ("leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip are at https://www.cityscapes-dataset.com "
                 "(free registration); unzip both into the data root")

_FIRST_INSTANCE_ID = 1000  # label * 1000 + number; ids below are labels themselves: a region of a label without instances
_THING_IDS = frozenset(label.id for label in THING_LABELS)


def annotation_file(data_root: str | Path, split: str) -> Path:
    """Where a split's annotations are: mmdet's name for them."""
    return Path(data_root) / "annotations" / f"instancesonly_filtered_gtFine_{split}.json"


def prepare_cityscapes(data_root: str | Path, workers: int | None = None) -> list[Path]:
    """Writes COCO-format annotations for train and val, and says on stderr what is in them.

    Args:
        data_root: folder of ``leftImg8bit/{train,val}/<city>/`` and ``gtFine/{train,val}/<city>/``.
        workers: processes; None for as many as there are cores. The files do not depend on it.

    Returns:
        The annotation files, of the splits that have images.

    Raises:
        ValueError: there are no images, an image has no instanceIds file or one of another size, such a file is damaged or
            holds ids that are not labels of Cityscapes, or annotations cannot be written there. Nothing is written then.
    """
    root = Path(data_root)
    names = {split: image_names(root / "leftImg8bit" / split) for split in OFFICIAL_IMAGES}
    if not any(names.values()):
        raise ValueError(f"{root} holds no image leftImg8bit/{{train,val}}/<city>/*{IMAGE_SUFFIX}; {DOWNLOAD_HINT}")
    check_writable(root / "annotations")
    for split, found in names.items():
        check_ground_truth_exists(root / "gtFine" / split, found)
    contents = {split: _convert(root, split, found, workers) for split, found in names.items() if found}
    for split, content in contents.items():
        write_json(annotation_file(root, split), content)
        note(_summary(split, content))
    for split, official in OFFICIAL_IMAGES.items():
        if len(names[split]) != official:
            note(f"warning: {split} has {len(names[split]):,} images, the official set {official:,}: results do not compare "
                 "with published ones")
    return [annotation_file(root, split) for split in contents]


def check_cityscapes(data_root: str | Path, workers: int | None = None) -> DataCheck:
    """Checks a Cityscapes tree, and the annotations that :func:`prepare_cityscapes` makes of it.

    Args:
        data_root: folder of ``leftImg8bit/`` and ``gtFine/``.
        workers: processes that decode images; None for as many as there are cores.
    """
    root, check = Path(data_root), DataCheck()
    for split, official in OFFICIAL_IMAGES.items():
        image_dir, gt_dir, ann_file = root / "leftImg8bit" / split, root / "gtFine" / split, annotation_file(root, split)
        for missing in (path for path in (image_dir, gt_dir) if not path.is_dir()):
            check.issues.add("missing folders of Cityscapes", str(missing), DOWNLOAD_HINT)
        jobs = [(image_dir / name, instance_ids_file(gt_dir, name)) for name in image_names(image_dir)]
        faults = map_in_processes(_pair_fault, jobs, workers, description=f"decoding {gt_dir}")
        for fault in filter(None, faults):
            check.issues.add("instanceIds files that are missing or do not fit", fault,
                             "unzip gtFine_trainvaltest.zip again")
        if not ann_file.exists():
            check.issues.add("missing annotation files", str(ann_file), "run tools/prepare_data.py cityscapes")
            continue
        file = check_annotation_file(ann_file, image_dir, workers, split, official)
        check.files.append(file)
        if not file.counts or file.issues.fatal:
            continue
        listed = {image["file_name"] for image in file.content["images"]}
        for name in (name for name in image_names(image_dir) if name not in listed):
            file.issues.add("images that the annotation file does not list", name,
                            "run tools/prepare_data.py cityscapes again", fatal=False)
        for name in set(category_names(file.content)) - set(CLASSES):
            file.issues.add("categories that are not among Cityscapes' 8 classes", name,
                            "the official evaluation does not know them; run tools/prepare_data.py cityscapes again")
    check.compare_categories()
    return check


def image_names(image_dir: Path) -> list[str]:
    """Names ``<city>/<file>`` of a split's images, sorted; hidden files, which macOS leaves beside images, are skipped."""
    files = image_dir.glob(f"*/*{IMAGE_SUFFIX}")
    return sorted(f"{file.parent.name}/{file.name}" for file in files if not file.name.startswith("."))


def instance_ids_file(folder: str | Path, image_name: str) -> Path:
    """The instanceIds file below ``folder`` of an image ``<city>/<name>_leftImg8bit.png``, or a path that ends so.

    Raises:
        ValueError: the image is not named so.
    """
    city, name = Path(image_name).parts[-2:] if len(Path(image_name).parts) > 1 else ("", "")
    if not name.endswith(IMAGE_SUFFIX):
        raise ValueError(f"image {image_name} is not named <city>/<name>{IMAGE_SUFFIX}, so that its official ground truth "
                         "cannot be found; set data.official_gt=None to evaluate by COCO's AP alone")
    return Path(folder) / city / (name.removesuffix(IMAGE_SUFFIX) + INSTANCES_SUFFIX)


def check_ground_truth_exists(folder: str | Path, images: Iterable[str]) -> None:
    """Checks that every image has the instanceIds file which it is converted from, or the official AP compares it with.

    Args:
        folder: ``gtFine/<split>``.
        images: see :func:`instance_ids_file`.

    Raises:
        ValueError: files are missing (says how many and names the first).
    """
    files = [instance_ids_file(folder, image) for image in images]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"the instanceIds files of {len(missing)} of {len(files)} images are missing, for example "
                         f"{missing[0]}; {DOWNLOAD_HINT}")


def read_instance_ids(file: Path) -> np.ndarray:
    """An instanceIds image: ``(H, W)`` uint16; ``label * 1000 + number`` in objects, the label itself elsewhere.

    Raises:
        ValueError: it is damaged, not a gray image of 16 bits, or holds an id of no label of Cityscapes.
    """
    try:
        with Image.open(file) as image:
            mode, ids = image.mode, np.asarray(image)
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"{file} cannot be decoded ({error}); unzip gtFine_trainvaltest.zip again") from error
    unknown = [value for value in np.unique(ids).tolist() if _label_id(value) not in id2label]
    if not mode.startswith("I") or unknown:
        raise ValueError(f"{file} is an image of mode {mode} with values such as {unknown[:1]} that are not of a label of "
                         f"Cityscapes; a gtFine *{INSTANCES_SUFFIX} file is needed")
    return ids.astype(np.uint16, copy=False)  # PIL decodes to int32 in older versions


def find_objects(ids: np.ndarray) -> list[dict[str, Any]]:
    """The objects and group regions of the 8 thing classes in an instanceIds image.

    Args:
        ids: ``(H, W)`` uint16, see :func:`read_instance_ids`.

    Returns:
        By ascending id, COCO's ``iscrowd`` (1 for group regions), ``category_id`` (Cityscapes' label id), ``bbox``, ``area``
        and ``segmentation`` (compressed RLE, as text).
    """
    objects = []
    for value in np.unique(ids).tolist():
        if _label_id(value) in _THING_IDS:
            rle = rle_codec.encode(np.asfortranarray(ids == value).view(np.uint8))
            objects.append({
                "iscrowd": int(value < _FIRST_INSTANCE_ID),
                "category_id": _label_id(value),
                "bbox": rle_codec.toBbox(rle).tolist(),
                "area": int(rle_codec.area(rle)),
                "segmentation": {"size": list(ids.shape), "counts": rle["counts"].decode("ascii")},
            })
    return objects


def _label_id(value: int) -> int:
    """The label of a value of an instanceIds image."""
    return value // _FIRST_INSTANCE_ID if value >= _FIRST_INSTANCE_ID else value


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
    ids = _read_pair(files)
    return ids.shape, find_objects(ids)


def _read_pair(files: tuple[Path, Path]) -> np.ndarray:
    """The instanceIds of an image and its instanceIds file, of equal sizes."""
    image_file, ids_file = files
    ids = read_instance_ids(ids_file)
    height, width = ids.shape
    try:
        with Image.open(image_file) as image:  # its header only
            size = image.size
    except Exception as error:  # damaged files raise nearly anything
        raise ValueError(f"{image_file} cannot be decoded ({error}); unzip leftImg8bit_trainvaltest.zip again") from error
    if size != (width, height):
        raise ValueError(f"{ids_file} is {width} x {height} pixels but its image {image_file} {size[0]} x {size[1]}; both "
                         "must be of one release and neither resized")
    return ids


def _pair_fault(files: tuple[Path, Path]) -> str | None:
    """What is wrong with an image's instanceIds file; None if nothing is."""
    if not files[1].is_file():
        return f"{files[1]} does not exist"
    try:
        _read_pair(files)
    except ValueError as error:
        return str(error)
    return None


def _summary(split: str, content: Mapping[str, Any]) -> str:
    names = {label.id: label.name for label in THING_LABELS}
    objects = Counter(names[a["category_id"]] for a in content["annotations"] if not a["iscrowd"])
    empty = len(content["images"]) - len({a["image_id"] for a in content["annotations"]})
    return (f"{split}: {len(content['images']):,} images ({empty:,} without objects), {sum(objects.values()):,} objects ("
            + ", ".join(f"{name} {objects[name]:,}" for name in CLASSES)
            + f"), {sum(a['iscrowd'] for a in content['annotations']):,} group regions")
