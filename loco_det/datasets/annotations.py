"""COCO annotation files: read and checked before anything trains, and derived (subsets, supercategories)."""

from __future__ import annotations

import codecs
import gc
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loco_det.datasets.annotation_checks import ZERO_ID, check_content, check_ids
from loco_det.datasets.findings import Findings, printable
from loco_det.datasets.segmentations import POINT_OR_LINE, is_proper


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message names the file, what is wrong and the mend."""


def load_annotations(ann_file: str | Path, image_dir: str | Path) -> dict[str, Any]:
    """Reads a COCO instances file and checks what training and evaluation need of it.

    Two things are mended in what is returned: annotations are numbered anew where one has the id 0, by which pycocotools
    marks a miss, and polygons of under three points beside proper ones are left out.

    Args:
        ann_file: the JSON file.
        image_dir: folder that its ``file_name`` entries are relative to, unless they are absolute.

    Returns:
        The file's content.

    Raises:
        AnnotationError: the file is missing, has problems that would end a run or make its numbers wrong
            (:mod:`loco_det.datasets.annotation_checks`), or names images that are not there.
    """
    content = read_content(ann_file)
    findings = check_content(content).findings
    if findings.has_fatal:
        raise AnnotationError(f"{ann_file}: {findings.fatal_line()}")
    if not Path(image_dir).is_dir():
        raise AnnotationError(f"image folder {image_dir} does not exist ({ann_file} refers to it)")
    absent = absent_images([image["file_name"] for image in content["images"]], image_dir)
    if absent:
        raise AnnotationError(f"{len(absent)} of {len(content['images'])} images of {ann_file} are not in {image_dir}, "
                              f"{printable(absent[0])} for one; complete the folder or fix the file")
    _mend(content["annotations"], findings)
    return content


def read_content(ann_file: str | Path) -> dict[str, Any]:
    """Reads a JSON file with COCO's three lists, images and categories not empty; their entries are not looked at.

    Raises:
        AnnotationError: it is no such file.
    """
    content = _read_json(ann_file)
    for section in ("images", "annotations", "categories"):
        if not isinstance(content.get(section), list):
            raise AnnotationError(f"{ann_file} lacks the list {section!r}; a COCO instances file is needed")
        if section != "annotations" and not content[section]:
            raise AnnotationError(f"{ann_file} has no {section}")
    return content


def read_image_ids(ann_file: str | Path) -> list[int]:
    """The image ids of an annotation file, in its order; nothing else of it has to be in place.

    Raises:
        AnnotationError: the file is missing or not JSON, has no images, or ids that are no integers or repeat.
    """
    content = _read_json(ann_file)
    images = content.get("images")
    if not isinstance(images, list) or not images:
        raise AnnotationError(f"{ann_file} has no images; a COCO annotation file is needed")
    for position, image in enumerate(images):
        if not isinstance(image, dict) or "id" not in image:
            raise AnnotationError(f"{ann_file}: entry {position} of 'images' lacks the key 'id'")
    findings = Findings()
    check_ids(images, "images", findings)
    if findings.has_fatal:
        raise AnnotationError(f"{ann_file}: {findings.fatal_line()}")
    return [image["id"] for image in images]


def absent_images(file_names: Collection[str], image_dir: str | Path) -> list[str]:
    """Those of the files that are not there; names are relative to ``image_dir`` or absolute.

    Folders are listed rather than files looked up one by one, which takes minutes for COCO on a network drive.
    """
    listed: dict[str, set[str]] = {}
    absent = []
    for file_name in file_names:
        folder, name = os.path.split(os.path.join(image_dir, file_name))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        # a name that is not listed as it is spelled may be there all the same: letters with accents on macOS
        if name not in listed[folder] and not os.path.isfile(os.path.join(folder, name)):
            absent.append(file_name)
    return absent


def category_names(content: dict[str, Any]) -> list[str]:
    """Names of the categories in the order of the file, which is that of the class labels."""
    return [category["name"] for category in content["categories"]]


def derive(
    content: dict[str, Any], image_ids: Collection[int] | None = None, supercategories: bool = False
) -> dict[str, Any]:
    """A new annotation content: some of the images only, and categories merged into their supercategories.

    Args:
        content: what :func:`load_annotations` returned; it is not changed.
        image_ids: images to keep, with their annotations; None keeps all.
        supercategories: replace every category by its supercategory (numbered from 1 in order of first appearance).

    Raises:
        AnnotationError: a category has no supercategory.
    """
    images, annotations, categories = content["images"], content["annotations"], content["categories"]
    if image_ids is not None:
        kept = set(image_ids)
        images = [image for image in images if image["id"] in kept]
        annotations = [annotation for annotation in annotations if annotation["image_id"] in kept]
    if supercategories:
        lacking = [category["name"] for category in categories if not category.get("supercategory")]
        if lacking:
            raise AnnotationError(f"category {lacking[0]!r} has no supercategory; use the categories themselves")
        names = list(dict.fromkeys(category["supercategory"] for category in categories))
        merged = {category["id"]: names.index(category["supercategory"]) + 1 for category in categories}
        annotations = [{**a, "category_id": merged[a["category_id"]]} for a in annotations]
        categories = [{"id": i + 1, "name": name, "supercategory": name} for i, name in enumerate(names)]
    return {**content, "images": images, "annotations": annotations, "categories": categories}


def _read_json(ann_file: str | Path) -> dict[str, Any]:
    if not Path(ann_file).is_file():
        raise AnnotationError(f"annotation file {ann_file} does not exist")
    text = Path(ann_file).read_bytes()
    if text.startswith(codecs.BOM_UTF8):
        raise AnnotationError(f"{ann_file} begins with a byte order mark, which pycocotools cannot read; save it as UTF-8 "
                              "without")
    try:
        with _no_garbage_collection():
            content = json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise AnnotationError(f"{ann_file} is not JSON ({error}); get the file anew") from error
    except RecursionError as error:
        raise AnnotationError(f"{ann_file} is not an annotation file: its lists are nested too deep") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{ann_file} holds a {type(content).__name__} instead of COCO's dict of images, annotations "
                              "and categories")
    return content


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Reading COCO makes millions of lists; to search them for cycles again and again takes as long as to parse them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _mend(annotations: list[dict[str, Any]], findings: Findings) -> None:
    """Changes what would make evaluation fail or miscount (in place)."""
    if ZERO_ID in findings:
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    if POINT_OR_LINE in findings:
        for annotation in annotations:
            if isinstance(annotation["segmentation"], list):
                annotation["segmentation"] = list(filter(is_proper, annotation["segmentation"]))
