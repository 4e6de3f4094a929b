"""A whole detection data set checked before anybody waits for a run: layout, annotations, and every image decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from loco_det.datasets import cityscapes
from loco_det.datasets.annotation_checks import ContentCheck, check_content
from loco_det.datasets.annotations import AnnotationError, absent_images, read_content
from loco_det.datasets.findings import Findings, Problem
from loco_det.datasets.parallel import map_in_processes
from pretrain.data.decoding import CorruptImageError, decode_image

OFFICIAL_COCO = {"train": 118_287, "val": 5_000}  # images of train2017 and val2017
MIN_SIDE = 32  # pixels: filter_cfg.min_size of the configs of COCO and Cityscapes
COCO_HINT = ("unpack train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download "
             "into the data root")

LACKING_COCO = Problem("files and folders of COCO's layout that are missing", f"{COCO_HINT}, or use --ann and --images")
LACKING_CITYSCAPES = Problem("folders of Cityscapes that are missing", cityscapes.DOWNLOAD_HINT)
UNPREPARED = Problem("annotation files that are missing", "run tools/prepare_data.py cityscapes on this data root")
UNUSABLE_FILE = Problem("annotation files that cannot be used", "nothing else of them could be checked")
NO_FOLDER = Problem("image folders that do not exist", "pass the folder that the file names are relative to")
ABSENT = Problem("images that are not in their folder", "complete the folder or fix the annotation file")
CORRUPT = Problem("images that cannot be decoded", "evaluation does without none; get them anew")
CORRUPT_IN_TRAINING = Problem("images that cannot be decoded", "training replaces each by another; get them anew",
                                  fatal=False)
CORRUPT_IN_EITHER = Problem("images that cannot be decoded", "training replaces each by another, but evaluation on this "
                                "file would end; get them anew", fatal=False)
SMALL = Problem(f"images under {MIN_SIDE} pixels", "training leaves them out", fatal=False)
ONLY_SMALL = Problem(f"files without an object to learn in an image of at least {MIN_SIDE} pixels", "training leaves "
                     "smaller images out, and nothing remains; use larger images, or a config of your own with another "
                     "train_dataloader.dataset.filter_cfg.min_size")
OTHER_SIZE = Problem("images of another size than annotated", "their annotations do not fit; sizes are those of the upright "
                     "image (EXIF)")
OTHER_CATEGORIES = Problem("categories that train and val do not share, or list in another order", "both files must be of "
                           "one data set")
OTHER_CLASSES = Problem("categories that are none of Cityscapes' 8 classes", "the official evaluation does not know them; "
                        "run tools/prepare_data.py cityscapes again")
NO_INSTANCE_IDS = Problem("images without an instanceIds file", "unzip gtFine_trainvaltest.zip, or take these images away")
BAD_INSTANCE_IDS = Problem("instanceIds files that do not fit", "unzip gtFine_trainvaltest.zip anew")
NOT_LISTED = Problem("images that the annotation file does not list", "run tools/prepare_data.py cityscapes again",
                     fatal=False)


@dataclass
class FileCheck:
    """What was found in one annotation file and its images.

    Attributes:
        ann_file: the annotation file.
        image_dir: what its file names are relative to.
        counts: of images, annotations and others; empty where the file cannot be used.
        findings: the problems.
        category_names: in the order of the file; empty where not all of them are text.
        file_names: of the images, those that are text; empty without an image folder.
    """

    ann_file: Path
    image_dir: Path
    counts: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    category_names: list[str] = field(default_factory=list)
    file_names: set[str] = field(default_factory=set)


@dataclass
class DataCheck:
    """What was found in a data set.

    Attributes:
        files: of each annotation file.
        findings: problems of the set as a whole.
    """

    files: list[FileCheck] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)

    @property
    def is_usable(self) -> bool:
        """Whether a detector can be trained and evaluated on it."""
        return not (self.findings.has_fatal or any(file.findings.has_fatal for file in self.files))

    def lines(self) -> list[str]:
        """The summary as text."""
        lines = _finding_lines(self.findings)
        for file in self.files:
            counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in file.counts.items())
            lines += [f"{file.ann_file}: {counts or 'not read'}"] + _finding_lines(file.findings)
        return lines

    def plain(self) -> dict[str, Any]:
        """The summary as plain data."""
        files = [
            dict(annotations=str(file.ann_file), images=str(file.image_dir), counts=file.counts,
                 findings=file.findings.plain())
            for file in self.files
        ]
        return dict(usable=self.is_usable, findings=self.findings.plain(), files=files)


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
            check.findings.add(LACKING_COCO, str(path))
        if not lacking:
            file = check_annotation_file(ann_file, image_dir, workers, split)
            _compare_with_official(file, official)
            check.files.append(file)
    _compare_categories(check)
    return check


def check_annotation_file(
    ann_file: str | Path, image_dir: str | Path, workers: int | None = None, split: str | None = None
) -> FileCheck:
    """Checks one annotation file in COCO's format, and decodes its images.

    Args:
        ann_file: the JSON file.
        image_dir: what its file names are relative to.
        workers: processes that decode images; None for as many as there are cores.
        split: ``"train"`` or ``"val"``; None for a file that may be used as either. Images that cannot be decoded are fatal
            in evaluation only, images too small for training are told of files that may be trained on.
    """
    check = FileCheck(Path(ann_file), Path(image_dir))
    try:
        content = read_content(ann_file)
    except AnnotationError as error:
        check.findings.add(UNUSABLE_FILE, str(error))
        return check
    content_check = check_content(content)
    check.counts, check.findings = content_check.counts, content_check.findings
    names = [category.get("name") for category in content["categories"] if isinstance(category, dict)]
    check.category_names = names if all(isinstance(name, str) for name in names) else []
    if split != "val" and not check.findings.has_fatal:
        _check_training_sizes(content["images"], content_check)
    if check.image_dir.is_dir():
        _check_image_files(content["images"], check, workers, split)
    else:
        check.findings.add(NO_FOLDER, str(image_dir))
    return check


def check_cityscapes(data_root: str | Path, workers: int | None = None) -> DataCheck:
    """Checks a Cityscapes tree, and the annotations that ``prepare_data.py cityscapes`` makes of it.

    Args:
        data_root: folder of ``leftImg8bit/`` and ``gtFine/``.
        workers: processes that decode images; None for as many as there are cores.
    """
    root, check = Path(data_root), DataCheck()
    for split, cities in cityscapes.OFFICIAL_IMAGES.items():
        image_dir, gt_dir = root / "leftImg8bit" / split, root / "gtFine" / split
        lacking = [folder for folder in (image_dir, gt_dir) if not folder.is_dir()]
        for folder in lacking:
            check.findings.add(LACKING_CITYSCAPES, str(folder))
        if lacking:
            continue
        files = image_dir.glob(f"*/*{cityscapes.IMAGE_SUFFIX}")
        names = sorted(file.relative_to(image_dir).as_posix() for file in files if not file.name.startswith("."))
        _check_instance_ids(names, image_dir, gt_dir, workers, check.findings)
        ann_file = cityscapes.annotation_file(root, split)
        if not ann_file.exists():
            check.findings.add(UNPREPARED, str(ann_file))
            continue
        file = check_annotation_file(ann_file, image_dir, workers, split)
        if file.counts:
            for name in names:
                if name not in file.file_names:
                    file.findings.add(NOT_LISTED, name)
        for name in file.category_names:
            if name not in cityscapes.CLASSES:
                file.findings.add(OTHER_CLASSES, name)
        _compare_with_official(file, sum(cities.values()))
        check.files.append(file)
    _compare_categories(check)
    return check


def _check_training_sizes(images: Sequence[dict[str, Any]], content_check: ContentCheck) -> None:
    """Finds what mmdet's ``filter_cfg`` leaves out of training; the content has no fatal problems."""
    small = {image["id"]: image for image in images if min(image["width"], image["height"]) < MIN_SIDE}
    for image in small.values():
        content_check.findings.add(SMALL, f"{image['file_name']}: {image['width']} x {image['height']}")
    if content_check.learnable_images <= small.keys():
        content_check.findings.add(ONLY_SMALL, f"{len(small)} of {len(images)} images are smaller")


def _check_image_files(images: Sequence[Any], check: FileCheck, workers: int | None, split: str | None) -> None:
    corrupt = {"train": CORRUPT_IN_TRAINING, "val": CORRUPT, None: CORRUPT_IN_EITHER}[split]
    entries = [e for e in images if isinstance(e, dict) and isinstance(e.get("file_name"), str) and e["file_name"]]
    check.file_names = {entry["file_name"] for entry in entries}
    absent = set(absent_images([entry["file_name"] for entry in entries], check.image_dir))
    for name in sorted(absent):
        check.findings.add(ABSENT, name)
    jobs = [
        (os.path.join(check.image_dir, entry["file_name"]), entry.get("width"), entry.get("height"))
        for entry in entries if entry["file_name"] not in absent
    ]
    for fault in map_in_processes(_image_fault, jobs, workers, description=f"decoding {check.image_dir}"):
        if fault is not None:
            problem, offender = fault
            check.findings.add(corrupt if problem == CORRUPT else problem, offender)


def _image_fault(job: tuple[str, int, int]) -> tuple[Problem, str] | None:
    """What is wrong with an image file of which width and height are annotated, decoded as training does."""
    file, width, height = job
    try:
        size = decode_image(file).size
    except CorruptImageError as error:
        return CORRUPT, str(error)
    if size != (width, height):
        return OTHER_SIZE, f"{file} is {size[0]} x {size[1]} pixels, annotated as {width} x {height}"
    return None


def _check_instance_ids(
    names: Sequence[str], image_dir: Path, gt_dir: Path, workers: int | None, findings: Findings
) -> None:
    if not names:
        findings.add(LACKING_CITYSCAPES, f"{image_dir}/<city>/*{cityscapes.IMAGE_SUFFIX}")
    jobs = []
    for name in names:
        ids_file = cityscapes.instance_ids_file(gt_dir, name)
        if ids_file.is_file():
            jobs.append((image_dir / name, ids_file))
        else:
            findings.add(NO_INSTANCE_IDS, name)
    for fault in map_in_processes(_instance_ids_fault, jobs, workers, description=f"decoding {gt_dir}"):
        if fault is not None:
            findings.add(BAD_INSTANCE_IDS, fault)


def _instance_ids_fault(job: tuple[Path, Path]) -> str | None:
    image_file, ids_file = job
    try:
        height, width = cityscapes.read_instance_ids(ids_file).shape
    except ValueError as error:
        return str(error)
    try:
        with Image.open(image_file) as image:
            size = image.size
    except Exception:  # damaged files raise nearly anything; they are found with the annotation file's images
        return None
    if size != (width, height):
        return f"{ids_file} is {width} x {height} pixels, its image {size[0]} x {size[1]}"
    return None


def _compare_with_official(file: FileCheck, official: int) -> None:
    if file.counts and file.counts["images"] != official:
        problem = Problem(f"sets that do not have the official {official:,} images", "results do not compare with published "
                          "ones", fatal=False)
        file.findings.add(problem, f"{file.counts['images']:,} images")


def _compare_categories(check: DataCheck) -> None:
    known = [file.category_names for file in check.files if file.category_names]
    if len(known) == 2 and known[0] != known[1]:
        differing = set(known[0]) ^ set(known[1]) or {"the order"}
        for name in sorted(map(str, differing)):
            check.findings.add(OTHER_CATEGORIES, name)


def _finding_lines(findings: Findings) -> list[str]:
    severities = (entry["severity"] for entry in findings.plain())
    return [f"  {severity}: {line}" for severity, line in zip(severities, findings.lines(), strict=True)]
