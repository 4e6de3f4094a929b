"""Labelled objects cut out of the images of a detection set in COCO's format, which makes a classification set of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pretrain.data.decoding import CorruptImageError, decode_image
from pretrain.data.sources import SOURCES, ImageSource, class_names

SPLIT = "{split}"  # stands for the split's name in the names of files
NEEDED = {"images": ("id", "file_name", "width", "height"), "annotations": ("id", "image_id", "category_id", "bbox"),
          "categories": ("id", "name")}


class _Photograph(NamedTuple):
    """An image that objects are cut out of, and its size in pixels as it is annotated."""

    path: Path
    width: int
    height: int


@SOURCES.register_module("coco_objects")
class ObjectCrops(ImageSource):
    """Every annotated object of a COCO-format set as an image of its own: its box, and the category as its class.

    Crowd regions are left out, and so are objects whose box, as far as it lies in the image, has a side under ``min_side``.
    Objects of one image follow each other, and the last image stays decoded: reading in order decodes every image once.

    Args:
        data_root: the folder of the set.
        split: what replaces "{split}" in ``annotations`` and ``images``; "train" by default.
        annotations: file of instances, relative to ``data_root``.
        images: folder that its ``file_name`` entries are relative to, itself relative to ``data_root``.
        margin: added to the box on each of its four sides, as a share of the box's width and height; what would lie outside
            of the image is cut off.
        min_side: of boxes, in pixels, without the margin.

    Raises:
        ValueError: file or folder is missing, the file is none of COCO's instances, an option is out of range, or no object
            is left.
    """

    how_to_label = "annotate objects of at least two categories"

    def __init__(
        self,
        data_root: Path,
        split: str | None = None,
        annotations: str = "annotations/instances_{split}2017.json",
        images: str = "{split}2017",
        margin: float = 0.0,
        min_side: float = 8,
    ) -> None:
        for name, value in (("margin", margin), ("min_side", min_side)):
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; a number of at least 0 is needed")
        split = split or "train"
        file, folder = (data_root / name.replace(SPLIT, split) for name in (annotations, images))
        content = _read_instances(file)
        if not folder.is_dir():
            raise ValueError(f"image folder {folder} does not exist; name the folder that the images of {file} are in with "
                             "the source's option images, relative to the data root")
        self.description = f"objects of {file}"
        self.classes = class_names(sorted(category["name"] for category in content["categories"]), 0)
        self._photographs = [_Photograph(folder / image["file_name"], image["width"], image["height"])
                             for image in content["images"]]
        objects = _objects(content, self.classes, margin, min_side, file)
        if not objects:
            raise ValueError(f"{file} has no object with sides of {min_side} pixels or more that is no crowd region; choose "
                             "a smaller min_side, or annotate some")
        columns = [np.array(column, dtype=np.int64) for column in zip(*objects, strict=True)]
        self._photograph_of, self._ids, self.labels = columns[:3]  # (N,) each
        self._boxes = np.stack(columns[3:], axis=1)  # (N, 4): left, top, right, bottom
        self._last: tuple[int, Image.Image] | None = None

    @classmethod
    def default_splits(cls, data_root: Path, **options: object) -> tuple[str, str]:
        """Train and val, which take the place of "{split}" in the names of file and folder."""
        return ("train", "val")

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a worker decodes its own images

    def name(self, index: int) -> str:
        """The image's path and the annotation's id."""
        return f"{self._photographs[self._photograph_of[index]].path} object {self._ids[index]}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageSource`."""
        return self._photograph(int(self._photograph_of[index])).crop(tuple(self._boxes[index].tolist()))

    def _photograph(self, index: int) -> Image.Image:
        if self._last is None or self._last[0] != index:
            path, width, height = self._photographs[index]
            image = decode_image(path)
            if image.size != (width, height):
                raise CorruptImageError(f"{path} cannot be used: it is {image.width} x {image.height} pixels (upright "
                                            f"by its EXIF data) but annotated as {width} x {height}")
            self._last = index, image
        return self._last[1]


def _read_instances(file: Path) -> dict[str, Any]:
    """A COCO instances file with all that is needed of its entries."""
    if not file.is_file():
        raise ValueError(f"annotation file {file} does not exist; name it with the source's option annotations, relative to "
                         f"the data root, such as annotations=annotations/{SPLIT}.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for section, keys in NEEDED.items():
            for position, entry in enumerate(content[section]):
                if lacking := [key for key in keys if key not in entry]:
                    raise ValueError(f"entry {position} of {section!r} lacks {lacking[0]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no COCO instances file ({type(error).__name__}: {error}); get the file anew, or name "
                         "another one with the source's option annotations") from error
    return content


def _objects(
    content: Mapping[str, Any], classes: Sequence[str], margin: float, min_side: float, file: Path
) -> list[tuple[int, ...]]:
    """``(position of the image, id, label, left, top, right, bottom)`` of every object that is kept, image by image."""
    label_of = {category["id"]: classes.index(category["name"]) for category in content["categories"]}
    position_of = {image["id"]: position for position, image in enumerate(content["images"])}
    objects = []
    for annotation in content["annotations"]:
        if annotation.get("iscrowd"):
            continue
        try:
            position, label = position_of[annotation["image_id"]], label_of[annotation["category_id"]]
            image = content["images"][position]
            box = _crop_box(annotation["bbox"], (image["width"], image["height"]), margin, min_side)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: annotation {annotation['id']} cannot be used ({type(error).__name__}: {error}); it "
                             "needs a listed image and category and a box [x, y, width, height] in pixels") from error
        if box is not None:
            objects.append((position, annotation["id"], label, *box))
    return sorted(objects)


def _crop_box(
    box: Sequence[float], size: tuple[int, int], margin: float, min_side: float
) -> tuple[int, int, int, int] | None:
    """The whole pixels that a box ``[x, y, width, height]`` with its margin touches in an image of ``size``.

    Returns:
        ``(left, top, right, bottom)``; None for a box that is too small without its margin.
    """
    x, y, width, height = box
    lows, highs = [], []
    for start, extent, limit in ((x, width, size[0]), (y, height, size[1])):
        side = min(start + extent, limit) - max(start, 0)
        if not side >= max(min_side, 1):
            return None
        lows.append(max(0, math.floor(start - margin * extent)))
        highs.append(min(limit, math.ceil(start + extent + margin * extent)))
    return (*lows, *highs)
