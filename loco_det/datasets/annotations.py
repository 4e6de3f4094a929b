"""COCO annotation files: read and checked before anything trains, and derived (subsets, supercategories)."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

REQUIRED_KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "segmentation", "iscrowd"),
    "categories": ("id", "name"),
}


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message names the file, what is wrong and the mend."""


def load_annotations(ann_file: str | Path, image_dir: str | Path) -> dict[str, Any]:
    """Reads a COCO instances file and checks what training needs of it.

    Args:
        ann_file: the JSON file.
        image_dir: folder that its ``file_name`` entries are relative to.

    Returns:
        The file's content.

    Raises:
        AnnotationError: the file is missing, not JSON, lacks a key, refers to unknown images or categories, or names
            images that are not there.
    """
    ann_file, image_dir = Path(ann_file), Path(image_dir)
    if not ann_file.is_file():
        raise AnnotationError(f"annotation file {ann_file} does not exist")
    try:
        content = json.loads(ann_file.read_bytes())
    except ValueError as error:
        raise AnnotationError(f"{ann_file} is not JSON ({error}); get the file anew") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{ann_file} holds a {type(content).__name__} instead of COCO's dict of images, annotations "
                              "and categories")
    for section, keys in REQUIRED_KEYS.items():
        _check_section(ann_file, content, section, keys)
    _check_references(ann_file, content)
    _check_images(ann_file, content, image_dir)
    return content


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


def _check_section(ann_file: Path, content: dict[str, Any], section: str, keys: tuple[str, ...]) -> None:
    entries = content.get(section)
    if not isinstance(entries, list):
        raise AnnotationError(f"{ann_file} lacks the list {section!r}; a COCO instances file is needed")
    for position, entry in enumerate(entries):
        lacking = [key for key in keys if not isinstance(entry, dict) or key not in entry]
        if lacking:
            raise AnnotationError(f"{ann_file}: entry {position} of {section!r} lacks the key {lacking[0]!r}")
    if section != "annotations" and not entries:
        raise AnnotationError(f"{ann_file} has no {section}")


def _check_references(ann_file: Path, content: dict[str, Any]) -> None:
    image_ids = {image["id"] for image in content["images"]}
    category_ids = {category["id"] for category in content["categories"]}
    for annotation in content["annotations"]:
        for key, known in (("image_id", image_ids), ("category_id", category_ids)):
            if annotation[key] not in known:
                raise AnnotationError(f"{ann_file}: annotation {annotation['id']} has {key} {annotation[key]}, which the "
                                      "file does not list")


def _check_images(ann_file: Path, content: dict[str, Any], image_dir: Path) -> None:
    if not image_dir.is_dir():
        raise AnnotationError(f"image folder {image_dir} does not exist ({ann_file} refers to it)")
    absent = [image["file_name"] for image in content["images"] if not (image_dir / image["file_name"]).is_file()]
    if absent:
        raise AnnotationError(f"{len(absent)} of {len(content['images'])} images of {ann_file} are not in {image_dir}, "
                              f"{absent[0]} for one; complete the folder or fix the file")
