"""What can be wrong with a COCO instances file: the rules that loading and ``tools/prepare_data.py check`` share."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

IMAGE_KEYS = ("id", "file_name", "width", "height")
CATEGORY_KEYS = ("id", "name")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")  # and "segmentation" for detectors of masks
MAX_ID = 2**53  # faster-coco-eval keeps ids as floats
SHOWN = 5  # places kept of each kind of issue
OUTSIDE_TOLERANCE = 1.0  # pixels: annotation tools round
NO_MASK = "annotations without a segmentation"

_MIN_NUMBERS = 6  # x and y of three points


@dataclass
class Issue:
    """A kind of issue, how often it occurs and where first.

    Attributes:
        kind: such as "annotations without a segmentation".
        fix: what to do about it, or what becomes of it.
        fatal: whether a run would end on it, or compute a wrong number.
        count: how often it occurs.
        first: the first places.
    """

    kind: str
    fix: str
    fatal: bool
    count: int = 0
    first: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        first = ", ".join(self.first) + (", ..." if self.count > len(self.first) else "")
        return f"{self.kind}: {self.count} ({first}); {self.fix}"


class Issues:
    """Issues by kind, in the order in which they were found first."""

    def __init__(self) -> None:
        self._by_kind: dict[str, Issue] = {}

    def add(self, kind: str, place: str, fix: str, fatal: bool = True) -> None:
        """Counts one more issue of a kind."""
        issue = self._by_kind.setdefault(kind, Issue(kind, fix, fatal))
        issue.count += 1
        if len(issue.first) < SHOWN:
            issue.first.append(printable(place))

    def __iter__(self):
        """The issues, the fatal ones first."""
        return iter(sorted(self._by_kind.values(), key=lambda issue: not issue.fatal))

    @property
    def fatal(self) -> list[Issue]:
        """Those that a run would end on."""
        return [issue for issue in self if issue.fatal]

    def lines(self) -> list[str]:
        """A line each."""
        return [f"{'error' if issue.fatal else 'warning'}: {issue}" for issue in self]

    def plain(self) -> list[dict[str, Any]]:
        """As :meth:`lines`, but as plain data."""
        return [dict(issue=issue.kind, severity="error" if issue.fatal else "warning", count=issue.count, first=issue.first,
                     fix=issue.fix) for issue in self]


def printable(text: str) -> str:
    """The text with lone surrogates escaped: JSON and file systems let them through, UTF-8 streams do not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_content(content: dict[str, Any], masks: bool = True) -> tuple[Issues, dict[str, int]]:
    """Checks the entries of an instances file for what makes a run fail or its numbers wrong.

    Args:
        content: has the lists ``images``, ``annotations`` and ``categories``; is not changed.
        masks: whether a detector of masks is to be trained: annotations then need segmentations.

    Returns:
        The issues, and counts: images, annotations, categories, and where these have no fatal issues images without
        annotations, crowd regions and usable objects: those of some area that are not a crowd.
    """
    issues = Issues()
    counts = {section: len(content[section]) for section in ("images", "annotations", "categories")}
    images = entries_by_id(content, "images", IMAGE_KEYS, issues)
    categories = entries_by_id(content, "categories", CATEGORY_KEYS, issues)
    _check_images(images, issues)
    _check_names(categories, issues)
    annotations = entries_by_id(content, "annotations", ANNOTATION_KEYS, issues)
    if not issues.fatal:  # otherwise a missing image would be reported once more for each of its annotations
        counts |= _check_annotations(annotations, images, categories, masks, issues)
    return issues, counts


def entries_by_id(
    content: dict[str, Any], section: str, keys: tuple[str, ...], issues: Issues
) -> dict[int, dict[str, Any]]:
    """The entries of a list that have all keys and an id of their own; the others become issues."""
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(content[section]):
        missing = [key for key in keys if key not in entry] if isinstance(entry, dict) else list(keys)
        if missing:
            issues.add(f"{section} without the key {missing[0]!r}", f"entry {position}",
                       f"a COCO instances file has {', '.join(keys)} in each of its {section}")
        elif type(entry["id"]) is not int or not -MAX_ID < entry["id"] < MAX_ID:
            issues.add(f"{section} whose id is not an integer below 2^53", reprlib.repr(entry["id"]),
                       "write whole numbers without quotes and decimal points")
        elif entry["id"] in found:
            issues.add(f"{section} that share an id", str(entry["id"]), "number them again")
        else:
            found[entry["id"]] = entry
    return found


def _check_images(images: dict[int, dict[str, Any]], issues: Issues) -> None:
    for number, image in images.items():
        if not _is_text(image["file_name"]):
            issues.add("images whose file_name is not a text", f"image {number}", "give it relative to the image folder")
        if not all(type(image[side]) is int and image[side] > 0 for side in ("width", "height")):
            issues.add("images whose width or height is not a positive integer",
                       f"image {number}: {reprlib.repr((image['width'], image['height']))}", "give their size in pixels")


def _check_names(categories: dict[int, dict[str, Any]], issues: Issues) -> None:
    names = set()
    for number, category in categories.items():
        name = category["name"]
        if not _is_text(name):
            issues.add("categories whose name is not a text", f"category {number}: {reprlib.repr(name)}", "name them")
        elif name in names:
            issues.add("categories that share a name", name, "merge these categories, or rename one")
        else:
            names.add(name)


def _check_annotations(
    annotations: dict[int, dict[str, Any]],
    images: dict[int, dict[str, Any]],
    categories: dict[int, dict[str, Any]],
    masks: bool,
    issues: Issues,
) -> dict[str, int]:
    annotated, used = set(), set()
    crowd_regions = usable = 0
    for number, annotation in annotations.items():
        fault = _annotation_fault(annotation, images, categories, masks)
        if fault is not None:
            kind, value, fix = fault
            issues.add(kind, f"annotation {number}: {reprlib.repr(value)}", fix)
            continue
        if masks and isinstance(annotation["segmentation"], list) and not _fills_box(annotation):
            issues.add("polygons less than half as wide as their box", f"annotation {number}", "their masks will be small "
                       "or empty; are they given as shares of the image instead of pixels?", fatal=False)
        usable += _is_usable(annotation, images[annotation["image_id"]], issues)
        crowd_regions += annotation["iscrowd"]
        annotated.add(annotation["image_id"])
        used.add(annotation["category_id"])
    if not usable and not issues.fatal:
        issues.add("files without an object to learn", f"{len(annotations)} annotations",
                   "all annotations are crowd regions or have no area, or there are none")
    for number in categories.keys() - used if not issues.fatal else ():
        issues.add("categories without an annotation", categories[number]["name"],
                   "their AP is undefined and left out of the mean", fatal=False)
    return dict(images_without_annotations=len(images) - len(annotated), crowd_regions=crowd_regions, usable_objects=usable)


def _annotation_fault(
    annotation: dict[str, Any], images: dict[int, Any], categories: dict[int, Any], masks: bool
) -> tuple[str, Any, str] | None:
    """The first fatal issue of an annotation: its kind, the wrong value and the fix."""
    image_id, category_id = annotation["image_id"], annotation["category_id"]
    if type(image_id) is not int or image_id not in images:
        return "annotations whose image_id is not that of an image", image_id, "ids are numbers, not text; add the image"
    if type(category_id) is not int or category_id not in categories:
        return ("annotations whose category_id is not that of a category", category_id,
                "ids are numbers, not text; add the category")
    box, area = annotation["bbox"], annotation["area"]
    if not (_are_numbers(box) and len(box) == 4 and box[2] >= 0 and box[3] >= 0):
        return "boxes that are not [x, y, width, height]", box, "four finite numbers, width and height not negative"
    if not _are_numbers([area]) or area < 0:
        return "areas that are not numbers from 0", area, "AP for small, medium and large objects needs them"
    if annotation["iscrowd"] not in (0, 1):
        return "values of iscrowd other than 0 and 1", annotation["iscrowd"], "1 marks a group, which evaluation ignores"
    if masks:
        image = images[image_id]
        return _mask_fault(annotation.get("segmentation"), image["height"], image["width"])
    return None


def _is_usable(annotation: dict[str, Any], image: dict[str, Any], issues: Issues) -> bool:
    """Whether an annotation is an object to learn by mmdet's rule (``CocoDataset.parse_data_info``); adds warnings."""
    place = f"annotation {annotation['id']}"
    x, y, box_width, box_height = annotation["bbox"]
    width, height = image["width"], image["height"]
    has_area = box_width >= 1 and box_height >= 1 and annotation["area"] > 0
    overlaps = min(x + box_width, width) > max(x, 0) and min(y + box_height, height) > max(y, 0)
    low, right, bottom = -OUTSIDE_TOLERANCE, width + OUTSIDE_TOLERANCE, height + OUTSIDE_TOLERANCE
    if not has_area:
        issues.add("boxes of no area, or under a pixel wide or high", place,
                   "training leaves them out, evaluation looks for them", fatal=False)
    elif not overlaps:
        issues.add("boxes wholly outside their image", place, "training leaves them out, evaluation looks for them; are "
                   "width and height of the image exchanged?", fatal=False)
    elif x < low or y < low or x + box_width > right or y + box_height > bottom:
        issues.add("boxes that reach more than a pixel out of their image", place, "they are clipped; are they given as "
                   "[x1, y1, x2, y2] instead of [x, y, width, height]?", fatal=False)
    return bool(has_area and overlaps and not annotation["iscrowd"] and not annotation.get("ignore"))


def _fills_box(annotation: dict[str, Any]) -> bool:
    columns = [polygon[::2] for polygon in annotation["segmentation"] if polygon]
    return max(map(max, columns)) - min(map(min, columns)) >= annotation["bbox"][2] / 2


def is_proper(polygon: list[float]) -> bool:
    """Whether a polygon has three points or more, and all of them two coordinates, as mmdet demands."""
    return len(polygon) >= _MIN_NUMBERS and len(polygon) % 2 == 0


def _mask_fault(mask: Any, height: int, width: int) -> tuple[str, Any, str] | None:
    """What is wrong with a segmentation, polygons or run lengths, that pycocotools accepts silently or crashes on.

    It reads a first polygon of four numbers as a box and a flat list as nothing, exhausts the memory on NaN, and fills masks
    with uninitialised memory where run lengths end early.
    """
    if not mask:
        return NO_MASK, mask, "Mask R-CNN needs masks: add polygons or run lengths, or use a detector without a mask head"
    if isinstance(mask, list):
        if not all(_are_numbers(polygon) and len(polygon) % 2 == 0 for polygon in mask):
            return "segmentations that are not lists of polygons", mask, "write [[x1, y1, x2, y2, x3, y3, ...], ...]"
        if not any(map(is_proper, mask)):
            return ("segmentations without a polygon of three points or more", mask,
                    "give x and y of every corner, not a box; or leave these annotations out")
        return None
    try:
        size, counts = mask["size"], mask["counts"]
        pixels = compressed_pixel_count(counts) if isinstance(counts, str) else _pixel_count(counts)
    except (TypeError, KeyError, ValueError):
        return ("segmentations that are not run lengths", mask,
                "write {'size': [height, width], 'counts': a list of run lengths or pycocotools' string}")
    if size != [height, width] or pixels != height * width:
        return ("run lengths of another size than their image", (size, pixels),
                "the mask is damaged or of another size; encode it again")
    return None


def compressed_pixel_count(counts: str) -> int | None:
    """Sum of the run lengths in pycocotools' compressed string; None where it is not one.

    A run is written in groups of five bits, the lowest first, on the characters from "0" on; the sixth bit says that more
    groups follow, the fifth of the last group is the sign. From the fourth run on, it is the difference to the run before
    the last (``rleFrString`` of maskApi.c).
    """
    if not counts or min(counts) < "0" or max(counts) > "o":
        return None
    codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48  # (characters,)
    ends = np.flatnonzero(codes < 32)  # (runs,)
    if not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:  # 40 bits: no image has such runs
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return None if runs.min() < 0 else int(runs.sum())


def _pixel_count(counts: list[int]) -> int | None:
    if set(map(type, counts)) != {int}:
        raise TypeError("run lengths must be integers")
    return sum(counts) if min(counts) >= 0 else None


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of finite numbers."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except TypeError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
