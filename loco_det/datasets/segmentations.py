"""COCO's segmentations, polygons and run lengths, checked for what pycocotools takes unseen.

pycocotools 2.0.11 fills masks with uninitialised memory where run lengths end early, reads a first polygon of four numbers
as a box and a flat list as nothing, and exhausts the memory on NaN.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from loco_det.datasets.findings import Problem

NO_MASK = Problem("annotations without a segmentation", "Mask R-CNN needs masks: boxes alone do not do; add polygons or run "
                  "lengths, or leave these annotations out")
BAD_POLYGON = Problem("segmentations that are no lists of polygons", "write [[x1, y1, x2, y2, x3, y3, ...], ...] in finite "
                      "numbers, x and y of every point, or run lengths")
NO_PROPER_POLYGON = Problem("segmentations without a polygon of three points or more", "give x and y of every corner, not a "
                            "box; or leave these annotations out")
FAR_POLYGON = Problem("polygons that reach further than ten sides of the image beyond it", "fix the coordinates: they are "
                      "pixels of this image")
BAD_RUN_LENGTHS = Problem("segmentations that are no run lengths", "write {'size': [height, width], 'counts': a list of run "
                          "lengths or pycocotools' string}, all in integers")
RUN_LENGTH_SIZE = Problem("run lengths of another size than their image", "encode the mask at the image's size")
RUN_LENGTH_SUM = Problem("run lengths that do not add up to their image's pixels", "the mask is truncated or damaged; "
                         "encode it anew")
POINT_OR_LINE = Problem("polygons of under three points, beside proper ones of the same object", "they are left out",
                        fatal=False)

_MIN_NUMBERS = 6  # x and y of three points
_REACH = 10  # times the image's longer side; pycocotools' memory grows with the outline's length


def segmentation_fault(segmentation: Any, height: int, width: int) -> tuple[Problem, Any] | None:
    """The fatal problem of an annotation's segmentation in an image of this size, with the value; None if it is good."""
    if not segmentation:
        return NO_MASK, segmentation
    if isinstance(segmentation, list):
        return _polygon_fault(segmentation, height, width)
    return _run_length_fault(segmentation, height, width)


def is_proper(polygon: list[float]) -> bool:
    """Whether a polygon has three points or more, and all of them two coordinates, as mmdet and Detectron demand."""
    return len(polygon) >= _MIN_NUMBERS and len(polygon) % 2 == 0


def polygons_leave_image(polygons: list[list[float]], height: int, width: int, tolerance: float) -> bool:
    """Whether a polygon has a point more than ``tolerance`` pixels outside its image."""
    for polygon in polygons:
        highest = max(polygon)
        if min(polygon) < -tolerance:
            return True
        if highest > min(height, width) + tolerance and (  # seldom: telling x from y costs a copy
            max(polygon[::2]) > width + tolerance or max(polygon[1::2]) > height + tolerance
        ):
            return True
    return False


def compressed_pixel_count(counts: str) -> int | None:
    """Sum of the run lengths in pycocotools' compressed string; None where it is none.

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


def _polygon_fault(polygons: list[Any], height: int, width: int) -> tuple[Problem, Any] | None:
    limit = _REACH * max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list):
            return BAD_POLYGON, polygons
        if len(polygon) > _MIN_NUMBERS and len(polygon) % 2:  # an outline that lost a number, not a point or line
            return BAD_POLYGON, polygon
        try:
            if not math.isfinite(sum(polygon)):
                return BAD_POLYGON, polygon
            if polygon and not (-limit <= min(polygon) and max(polygon) <= limit):
                return FAR_POLYGON, polygon
        except (TypeError, OverflowError):  # not numbers, or beyond all floats
            return BAD_POLYGON, polygon
    return None if any(map(is_proper, polygons)) else (NO_PROPER_POLYGON, polygons)


def _run_length_fault(segmentation: Any, height: int, width: int) -> tuple[Problem, Any] | None:
    try:
        size, counts = segmentation["size"], segmentation["counts"]
        if size != [height, width]:
            return RUN_LENGTH_SIZE, size
        if {*map(type, size)} != {int}:
            return BAD_RUN_LENGTHS, segmentation
        total = compressed_pixel_count(counts) if isinstance(counts, str) else _pixel_count(counts)
    except (TypeError, KeyError, ValueError):
        return BAD_RUN_LENGTHS, segmentation
    return None if total == height * width else (RUN_LENGTH_SUM, total)
