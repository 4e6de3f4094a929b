"""COCO annotation files: read and checked before anything trains, derived (subsets, supercategories), and checked as a whole
with every image, for ``tools/prepare_data.py check coco``.

This module imports neither torch nor mmdet: worker processes start from it, and bad input must not wait for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loco_det.datasets.checks import NO_MASK, Issues, check_content, entries_by_id, is_proper, printable
from loco_det.datasets.parallel import map_in_processes
from pretrain.data.decoding import CorruptImageError, decode_image

OFFICIAL_COCO = {"train": 118_287, "val": 5_000}  # images of train2017 and val2017
MIN_SIDE = 32  # pixels: filter_cfg.min_size of the configs of COCO and Cityscapes
DOWNLOAD_HINT = ("unpack train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download "
                 "into the data root, or use --ann and --images")


class AnnotationError(ValueError):
    """An annotation file that cannot be used; the message names the file, what is wrong and the fix."""


def load_annotations(ann_file: str | Path, image_dir: str | Path, masks: bool = True) -> dict[str, Any]:
    """Reads a COCO instances file and checks what training and evaluation need of it.

    Two things are fixed in what is returned: annotations are numbered again where one has the id 0, by which pycocotools
    marks a miss, and polygons of under three points beside proper ones are left out.

    Args:
        ann_file: the JSON file.
        image_dir: folder that its ``file_name`` entries are relative to, unless they are absolute.
        masks: whether the detector predicts masks, so that every annotation needs one.

    Returns:
        The file's content.

    Raises:
        AnnotationError: the file or images of it are missing, or it has issues that would end a run or make its numbers
            wrong (:mod:`loco_det.datasets.checks`).
    """
    content = read_content(ann_file)
    issues, _ = check_content(content, masks)
    _raise_fatal(issues, ann_file)
    if not Path(image_dir).is_dir():
        raise AnnotationError(f"image folder {image_dir} does not exist ({ann_file} refers to it)")
    absent = absent_images([image["file_name"] for image in content["images"]], image_dir)
    if absent:
        raise AnnotationError(f"{len(absent)} of {len(content['images'])} images of {ann_file} are not in {image_dir}, for "
                              f"example {printable(absent[0])}; complete the folder or fix the file")
    annotations = content["annotations"]
    if any(annotation["id"] == 0 for annotation in annotations):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    for annotation in annotations:
        if isinstance(annotation.get("segmentation"), list):
            annotation["segmentation"] = list(filter(is_proper, annotation["segmentation"]))
    return content


def read_content(ann_file: str | Path) -> dict[str, Any]:
    """Reads a JSON file with COCO's three lists, images and categories not empty; their entries are not looked at.

    Raises:
        AnnotationError: it is not such a file.
    """
    content = _read_json(ann_file)
    for section in ("images", "annotations", "categories"):
        if not isinstance(content.get(section), list):
            raise AnnotationError(f"{ann_file} lacks the list {section!r}; a COCO instances file is needed")
        if section != "annotations" and not content[section]:
            raise AnnotationError(f"{ann_file} has no {section}")
    return content


def read_image_ids(ann_file: str | Path) -> list[int]:
    """The image ids of an annotation file, in its order; nothing else of it is needed.

    Raises:
        AnnotationError: the file is missing or not JSON, has no images, or ids that are not integers or repeat.
    """
    content, issues = _read_json(ann_file), Issues()
    if not isinstance(content.get("images"), list) or not content["images"]:
        raise AnnotationError(f"{ann_file} has no images; a COCO annotation file is needed")
    ids = list(entries_by_id(content, "images", ("id",), issues))
    _raise_fatal(issues, ann_file)
    return ids


def absent_images(file_names: Collection[str], image_dir: str | Path) -> list[str]:
    """The missing files; names are relative to ``image_dir`` or absolute.

    Folders are listed rather than files looked up one by one, which takes minutes for COCO on a network drive.
    """
    listed: dict[str, set[str]] = {}
    absent = []
    for file_name in file_names:
        folder, name = os.path.split(os.path.join(image_dir, file_name))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        # a name that is not listed as it is written may be there all the same: letters with accents on macOS
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


def category_difference(train: Sequence[str], val: Sequence[str]) -> str | None:
    """How the category names of two files of a data set differ, which they must not; None if they do not."""
    differing = sorted(set(train) ^ set(val))
    if differing:
        return f"{', '.join(differing[:5])} only in one of them"
    return None if list(train) == list(val) else "the same in another order"


@dataclass
class FileCheck:
    """What was found in one annotation file and its images.

    Attributes:
        ann_file: the annotation file.
        image_dir: what its file names are relative to.
        issues: of both.
        counts: of images, annotations and others; empty where the file cannot be used.
        content: of the file; empty where it cannot be used.
    """

    ann_file: Path
    image_dir: Path
    issues: Issues = field(default_factory=Issues)
    counts: dict[str, int] = field(default_factory=dict)
    content: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataCheck:
    """What was found in a data set.

    Attributes:
        files: of each annotation file.
        issues: of the set as a whole.
    """

    files: list[FileCheck] = field(default_factory=list)
    issues: Issues = field(default_factory=Issues)

    @property
    def is_usable(self) -> bool:
        """Whether a detector can be trained and evaluated on it."""
        return not (self.issues.fatal or any(file.issues.fatal for file in self.files))

    def lines(self) -> list[str]:
        """The summary as text."""
        lines = self.issues.lines()
        for file in self.files:
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in file.counts.items())
            lines += [f"{file.ann_file}: {counts or 'not read'}", *(f"  {line}" for line in file.issues.lines())]
        return lines

    def plain(self) -> dict[str, Any]:
        """The summary as plain data."""
        files = [dict(annotations=str(file.ann_file), images=str(file.image_dir), counts=file.counts,
                      issues=file.issues.plain()) for file in self.files]
        return dict(usable=self.is_usable, issues=self.issues.plain(), files=files)

    def compare_categories(self) -> None:
        """Adds an issue where the files' categories differ."""
        if len(self.files) == 2 and all(file.counts and not file.issues.fatal for file in self.files):
            difference = category_difference(*(category_names(file.content) for file in self.files))
            if difference:
                self.issues.add("categories that differ between train and val", difference, "both must be of one data set")


def check_coco(data_root: str | Path, workers: int | None = None) -> DataCheck:
    """Checks a set in COCO's layout: ``annotations/instances_{train,val}2017.json``, ``train2017/``, ``val2017/``.

    Args:
        data_root: where they are.
        workers: processes that decode images; None for as many as there are cores.
    """
    root, check = Path(data_root), DataCheck()
    for split, official in OFFICIAL_COCO.items():
        ann_file, image_dir = root / f"annotations/instances_{split}2017.json", root / f"{split}2017"
        lacking = [path for path in (ann_file, image_dir) if not path.exists()]
        for path in lacking:
            check.issues.add("missing files and folders of COCO's layout", str(path), DOWNLOAD_HINT)
        if not lacking:
            check.files.append(check_annotation_file(ann_file, image_dir, workers, split, official))
    check.compare_categories()
    return check


def check_annotation_file(
    ann_file: str | Path,
    image_dir: str | Path,
    workers: int | None = None,
    split: str | None = None,
    official: int | None = None,
) -> FileCheck:
    """Checks one annotation file in COCO's format, and decodes its images.

    Args:
        ann_file: the JSON file. It may be one of boxes alone, if none of its annotations has a segmentation.
        image_dir: what its file names are relative to.
        workers: processes that decode images; None for as many as there are cores.
        split: ``"train"`` or ``"val"``, of which the latter must not have a corrupt image; None for either.
        official: number of images of the official set; another one is a warning.
    """
    check = FileCheck(Path(ann_file), Path(image_dir))
    try:
        check.content = content = read_content(ann_file)
    except AnnotationError as error:
        check.issues.add("annotation files that cannot be used", str(error), "nothing else of it could be checked")
        return check
    masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in content["annotations"])
    check.issues, check.counts = check_content(content, masks)
    if not masks and content["annotations"]:
        check.issues.add(NO_MASK, "all of them", "only a detector without a mask head can be trained on boxes", fatal=False)
    if official not in (None, len(content["images"])):
        check.issues.add(f"sets that do not have the official {official:,} images", f"{len(content['images']):,} images",
                         "results do not compare with published ones", fatal=False)
    _check_images(check, workers, split)
    return check


def _check_images(check: FileCheck, workers: int | None, split: str | None) -> None:
    """Decodes the images of a file, those whose entries are whole."""
    issues = check.issues
    if not check.image_dir.is_dir():
        issues.add("image folders that do not exist", str(check.image_dir), "pass what the file names are relative to")
        return
    entries = [entry for entry in check.content["images"]
               if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)]
    absent = set(absent_images([entry["file_name"] for entry in entries], check.image_dir))
    for name in sorted(absent):
        issues.add("images that are not in their folder", name, "complete the folder or fix the annotation file")
    files = [(os.path.join(check.image_dir, entry["file_name"]), (entry.get("width"), entry.get("height")))
             for entry in entries if entry["file_name"] not in absent]
    sizes = map_in_processes(_decoded_size, [file for file, _ in files], workers, description=f"decoding {check.image_dir}")
    for (file, annotated), size in zip(files, sizes, strict=True):
        if isinstance(size, str):
            issues.add("corrupt images", size, "evaluation would end on them, training replaces them; get them again",
                       fatal=split == "val")
        elif size != annotated and None not in annotated:
            issues.add("images of another size than annotated", f"{file} is {size[0]} x {size[1]} pixels, annotated as "
                       f"{annotated[0]} x {annotated[1]}", "sizes are those of the upright image (EXIF)")
        elif min(size) < MIN_SIDE and split != "val":
            issues.add(f"images under {MIN_SIDE} pixels", file, "training leaves them out", fatal=False)


def _decoded_size(file: str) -> tuple[int, int] | str:
    """Width and height of an image, decoded as training does, or why it is corrupt."""
    try:
        return decode_image(file).size
    except CorruptImageError as error:
        return str(error)


def _read_json(ann_file: str | Path) -> dict[str, Any]:
    if not Path(ann_file).is_file():
        raise AnnotationError(f"annotation file {ann_file} does not exist")
    try:
        content = json.loads(Path(ann_file).read_text("utf-8"))  # as strict as pycocotools, which reads it later
    except ValueError as error:
        raise AnnotationError(f"{ann_file} is not JSON in UTF-8 ({error}); save it as that, or get it again") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{ann_file} holds a {type(content).__name__} instead of COCO's dict of images, annotations "
                              "and categories")
    return content


def _raise_fatal(issues: Issues, ann_file: str | Path) -> None:
    """Raises the first fatal issue, and says how many more kinds there are."""
    if issues.fatal:
        others = len(issues.fatal) - 1
        more = f" (and {others} more kinds; tools/prepare_data.py check lists them)" if others else ""
        raise AnnotationError(f"{ann_file}: {issues.fatal[0]}{more}")
