"""What is wrong with the content of a COCO instances file; the rules that reading and `prepare_data.py check` share."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from loco_det.datasets.findings import Findings, Problem
from loco_det.datasets.segmentations import NO_MASK, POINT_OR_LINE, is_proper, polygons_leave_image, segmentation_fault

REQUIRED_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"),
}
OUTSIDE_TOLERANCE = 1.0  # pixels: annotation tools round

NOT_AN_INTEGER = "ids must be whole numbers without quotes or decimal points, or predictions will not be found again"
NO_USABLE_OBJECT = Problem("files without an object to learn", "all annotations are crowd regions or have no area, or there "
                           "are none; nothing can be learned or measured on them")
BAD_FILE_NAME = Problem("images without a file name", "file_name must be a text, relative to the image folder or absolute")
BAD_SIZE = Problem("images whose width or height is no positive integer", "give their size in pixels")
TWICE_NAMED = Problem("category names that occur more than once", "merge these categories, or rename one")
NO_NAME = Problem("categories without a name", "name must be a text")
UNKNOWN_IMAGE = Problem("annotations with an image_id that the file does not list", "add the image or drop the annotation")
UNKNOWN_CATEGORY = Problem("annotations with a category_id that the file does not list", "add the category or drop the "
                           "annotation")
BAD_BOX = Problem("boxes that are not [x, y, width, height]", "four finite numbers, width and height not negative")
BAD_AREA = Problem("areas that are no numbers from 0", "AP for small, medium and large objects needs them")
BAD_CROWD = Problem("values of iscrowd other than 0 and 1", "1 marks a group that evaluation passes over")

NO_AREA = Problem("boxes of no area, or under a pixel wide or high", "training leaves them out, evaluation looks for them",
                  fatal=False)
OUTSIDE = Problem("boxes wholly outside their image", "training leaves them out, evaluation looks for them; are width and "
                  "height of the image exchanged?", fatal=False)
PARTLY_OUTSIDE = Problem("annotations that reach more than a pixel out of their image", "they are clipped; are boxes given "
                         "as [x1, y1, x2, y2] instead of [x, y, width, height]?", fatal=False)
IGNORED = Problem('annotations marked "ignore"', "training leaves them out, evaluation looks for them unless iscrowd is 1",
                  fatal=False)
UNCHECKED = Problem("files whose annotations were not checked", "mend images and categories first, then check again",
                    fatal=False)
ZERO_ID = Problem("annotations of id 0", "evaluation would take its matches for misses, so annotations are numbered anew",
                  fatal=False)
TWICE_LISTED = Problem("image files that are listed more than once", "each entry is an image of its own", fatal=False)
UNUSED_CATEGORY = Problem("categories without an annotation", "their AP is undefined and left out of the mean", fatal=False)


@dataclass
class ContentCheck:
    """What was found in an annotation file.

    Attributes:
        findings: the problems.
        counts: images, annotations, categories, and images without annotations, crowd regions, usable objects: those of
            some area that are no crowd.
        learnable_images: ids of the images with a usable object.
    """

    findings: Findings = field(default_factory=Findings)
    counts: dict[str, int] = field(default_factory=dict)
    learnable_images: set[int] = field(default_factory=set)


def check_content(content: dict[str, Any]) -> ContentCheck:
    """Checks the entries of an instances file for all that makes a run fail or its numbers wrong.

    Args:
        content: has the lists ``images``, ``annotations`` and ``categories``; is not changed.
    """
    check = ContentCheck(counts={section: len(content[section]) for section in REQUIRED_KEYS})
    findings = check.findings
    images = _complete(content["images"], "images", findings)
    categories = _complete(content["categories"], "categories", findings)
    _check_images(images, findings)
    _check_categories(categories, findings)
    referable = not findings.has_fatal
    annotations = _complete(content["annotations"], "annotations", findings)
    check_ids(annotations, "annotations", findings)
    if referable:
        _check_annotations(annotations, images, categories, check)
    else:
        findings.add(UNCHECKED, f"{len(content['annotations'])} annotations")
    return check


def check_ids(entries: Collection[dict[str, Any]], section: str, findings: Findings) -> None:
    """Finds ids that are no integers, or that entries share."""
    ids = [entry["id"] for entry in entries]
    if all(map(_is_id, ids)) and len(set(ids)) == len(ids):
        return
    no_integer = Problem(f"ids of {section} that are no integers", NOT_AN_INTEGER)
    twice = Problem(f"ids that several {section} share", "number them anew")
    seen = set()
    for value in ids:
        if not _is_id(value):
            findings.add(no_integer, reprlib.repr(value))
        elif value in seen:
            findings.add(twice, str(value))
        else:
            seen.add(value)


def _complete(entries: list[Any], section: str, findings: Findings) -> list[dict[str, Any]]:
    """The entries that have all keys; the others are found."""
    keys = REQUIRED_KEYS[section]
    needed = frozenset(keys)
    complete = [entry for entry in entries if isinstance(entry, dict) and needed <= entry.keys()]
    if len(complete) == len(entries):
        return complete
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            findings.add(Problem(f"entries of {section!r} that are no objects", "a COCO instances file is needed"),
                         f"entry {position}")
            continue
        lacking = [key for key in keys if key not in entry]
        if lacking == ["segmentation"]:
            findings.add(NO_MASK, f"annotation {reprlib.repr(entry['id'])}")
        elif lacking:
            where = f"entry {position}" + (f", id {reprlib.repr(entry['id'])}" if "id" in entry else "")
            findings.add(Problem(f"{section} without the key {lacking[0]!r}", "a COCO instances file is needed"), where)
    return complete


def _check_images(images: list[dict[str, Any]], findings: Findings) -> None:
    check_ids(images, "images", findings)
    seen = set()
    for image in images:
        name = image["file_name"]
        if not isinstance(name, str) or not name:
            findings.add(BAD_FILE_NAME, f"image {image['id']}: {reprlib.repr(name)}")
        elif name in seen:
            findings.add(TWICE_LISTED, name)
        else:
            seen.add(name)
        if not _has_size(image):
            findings.add(BAD_SIZE, f"image {image['id']}: {reprlib.repr((image['width'], image['height']))}")


def _check_categories(categories: list[dict[str, Any]], findings: Findings) -> None:
    check_ids(categories, "categories", findings)
    seen = set()
    for category in categories:
        name = category["name"]
        if not isinstance(name, str) or not name:
            findings.add(NO_NAME, f"category {category['id']}: {reprlib.repr(name)}")
        elif name in seen:
            findings.add(TWICE_NAMED, name)
        else:
            seen.add(name)


def _check_annotations(
    annotations: list[dict[str, Any]], images: list[dict[str, Any]], categories: list[dict[str, Any]], check: ContentCheck
) -> None:
    """Checks annotations against images and categories without problems of their own, and counts (into ``check``)."""
    findings = check.findings
    image_by_id = {image["id"]: image for image in images}
    category_ids = {category["id"] for category in categories}
    annotated, used = set(), set()
    crowd_regions = usable = 0
    for annotation in annotations:
        fault = _annotation_fault(annotation, image_by_id, category_ids)
        if fault is not None:
            problem, value = fault
            findings.add(problem, f"annotation {reprlib.repr(annotation['id'])}: {reprlib.repr(value)}")
            continue
        if _note_annotation(annotation, image_by_id[annotation["image_id"]], findings):
            usable += 1
            check.learnable_images.add(annotation["image_id"])
        crowd_regions += annotation["iscrowd"]
        annotated.add(annotation["image_id"])
        used.add(annotation["category_id"])
    if not usable and not findings.has_fatal:
        findings.add(NO_USABLE_OBJECT, f"{len(annotations)} annotations")
    for category in categories:
        if category["id"] not in used:
            findings.add(UNUSED_CATEGORY, category["name"])
    unannotated = len(images) - len(annotated)
    check.counts |= dict(images_without_annotations=unannotated, crowd_regions=crowd_regions, usable_objects=usable)


def _annotation_fault(
    annotation: dict[str, Any], images: dict[int, dict[str, Any]], category_ids: set[int]
) -> tuple[Problem, Any] | None:
    """The first fatal problem of an annotation, with the value that is wrong."""
    image_id, category_id, box, area = (annotation[key] for key in ("image_id", "category_id", "bbox", "area"))
    if type(image_id) is not int or image_id not in images:
        return UNKNOWN_IMAGE, image_id
    if type(category_id) is not int or category_id not in category_ids:
        return UNKNOWN_CATEGORY, category_id
    try:
        if len(box) != 4 or not math.isfinite(sum(box)) or box[2] < 0 or box[3] < 0:
            return BAD_BOX, box
    except (TypeError, KeyError, OverflowError):
        return BAD_BOX, box
    if not isinstance(area, int | float) or not 0 <= area < math.inf:  # NaN is in no range
        return BAD_AREA, area
    if annotation["iscrowd"] not in (0, 1):
        return BAD_CROWD, annotation["iscrowd"]
    image = images[image_id]
    return segmentation_fault(annotation["segmentation"], image["height"], image["width"])


def _note_annotation(annotation: dict[str, Any], image: dict[str, Any], findings: Findings) -> bool:
    """Finds what is worth knowing of an annotation without fatal problems; returns whether it is an object to learn.

    What training leaves out is mmdet's rule (``CocoDataset.parse_data_info``).
    """
    name = f"annotation {annotation['id']}"
    x, y, box_width, box_height = annotation["bbox"]
    width, height = image["width"], image["height"]
    if annotation["id"] == 0:
        findings.add(ZERO_ID, name)
    if annotation.get("ignore"):
        findings.add(IGNORED, name)
    segmentation = annotation["segmentation"]
    is_polygons = isinstance(segmentation, list)
    if is_polygons and not all(map(is_proper, segmentation)):
        findings.add(POINT_OR_LINE, name)
        segmentation = list(filter(is_proper, segmentation))
    overlaps = min(x + box_width, width) > max(x, 0) and min(y + box_height, height) > max(y, 0)
    has_area = box_width >= 1 and box_height >= 1 and annotation["area"] > 0
    low, right, bottom = -OUTSIDE_TOLERANCE, width + OUTSIDE_TOLERANCE, height + OUTSIDE_TOLERANCE
    if not has_area:
        findings.add(NO_AREA, name)
    elif not overlaps:
        findings.add(OUTSIDE, name)
    elif x < low or y < low or x + box_width > right or y + box_height > bottom or (
        is_polygons and polygons_leave_image(segmentation, height, width, OUTSIDE_TOLERANCE)
    ):
        findings.add(PARTLY_OUTSIDE, name)
    return has_area and overlaps and not annotation["iscrowd"] and not annotation.get("ignore")


def _is_id(value: Any) -> bool:
    return type(value) is int  # not bool, and a float or text is none, whatever it equals


def _has_size(image: dict[str, Any]) -> bool:
    return all(type(image[side]) is int and image[side] > 0 for side in ("width", "height"))
