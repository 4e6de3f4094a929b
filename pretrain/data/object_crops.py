"""Labelled objects cut out of the images of a detection set in COCO's format: a classification set made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.data.decoding import CorruptImageError, decode_image
from pretrain.data.sources import SOURCES, ImageDataset, class_names


@SOURCES.register_module("coco_objects")
class ObjectCrops(ImageDataset):
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
        ValueError: the file or folder is missing, the file does not hold COCO instances, an option is out of range, or no
            object is left.
    """

    def __init__(
        self,
        data_root: Path,
        split: str | None = None,
        annotations: str = "annotations/instances_{split}2017.json",
        images: str = "{split}2017",
        margin: float = 0.0,
        min_side: float = 8,
    ) -> None:
        if not 0 <= margin < math.inf or not 0 <= min_side < math.inf:
            raise ValueError(f"margin is {margin} and min_side {min_side}; numbers of at least 0 are needed")
        file, self.folder = (data_root / name.replace("{split}", split or "train") for name in (annotations, images))
        if not file.is_file() or not self.folder.is_dir():
            raise ValueError(f"annotation file {file} or image folder {self.folder} does not exist; name them with the "
                             "source's options annotations and images, relative to the data root")
        self.description = f"objects of {file}"
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            names = sorted(category["name"] for category in content["categories"])
            self.classes = class_names(names, np.zeros(1, dtype=np.int64))
            self._photographs = [(image["file_name"], image["width"], image["height"]) for image in content["images"]]
            objects = _objects(content, self.classes, margin, min_side)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} cannot be used as COCO instances ({type(error).__name__}: {error}); fix it, or name "
                             "another file with the source's option annotations") from error
        if not objects:
            raise ValueError(f"{file} has no object with sides of {min_side} pixels or more, besides crowd regions; choose "
                             "a smaller min_side")
        columns = np.array(sorted(objects), dtype=np.int64)  # (N, 7)
        self._photograph_of, self._ids, self.labels = columns[:, :3].T.copy()  # (N,) each
        self._boxes = columns[:, 3:]  # (N, 4): left, top, right, bottom
        self._last: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}  # a worker decodes its own images

    def name(self, index: int) -> str:
        """The image's path and the annotation's id."""
        return f"{self.folder / self._photographs[self._photograph_of[index]][0]} object {self._ids[index]}"

    def load(self, index: int) -> Image.Image:
        """See :class:`ImageDataset`."""
        return self._photograph(int(self._photograph_of[index])).crop(tuple(self._boxes[index].tolist()))

    def _photograph(self, index: int) -> Image.Image:
        if self._last is None or self._last[0] != index:
            name, width, height = self._photographs[index]
            image = decode_image(self.folder / name)
            if image.size != (width, height):
                raise CorruptImageError(f"{self.folder / name} is {image.width} x {image.height} pixels (upright by its "
                                        f"EXIF data) but annotated as {width} x {height}")
            self._last = index, image
        return self._last[1]


def _objects(content: Mapping[str, Any], classes: Sequence[str], margin: float, min_side: float) -> list[tuple[int, ...]]:
    """``(position of the image, id, label, left, top, right, bottom)`` of every object that is kept."""
    label_of = {category["id"]: classes.index(category["name"]) for category in content["categories"]}
    position_of = {image["id"]: position for position, image in enumerate(content["images"])}
    objects = []
    for annotation in content["annotations"]:
        if annotation.get("iscrowd"):
            continue
        position = position_of[annotation["image_id"]]
        image = content["images"][position]
        box = _crop_box(annotation["bbox"], (image["width"], image["height"]), margin, min_side)
        if box is not None:
            objects.append((position, annotation["id"], label_of[annotation["category_id"]], *box))
    return objects


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
