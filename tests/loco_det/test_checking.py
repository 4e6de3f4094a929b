"""Checks of whole data sets: every kind of problem is found where it is, and said to be fatal where it is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from loco_det.datasets import checking, cityscapes
from loco_det.datasets.checking import check_annotation_file, check_cityscapes, check_coco


def found(findings):
    """Problems with their severities, counts and first offenders."""
    return {entry["problem"]: (entry["severity"], entry["count"], entry["first"]) for entry in findings.plain()}


@pytest.fixture
def root(synthetic_root, tmp_path):
    """A copy of the drawn set, to be spoilt."""
    for name in ("annotations", "train2017", "val2017"):
        shutil.copytree(synthetic_root / name, tmp_path / "set" / name)
    return tmp_path / "set"


@pytest.fixture
def edit(root):
    """Changes the annotation file of a split."""

    def change(split, function):
        file = root / f"annotations/instances_{split}2017.json"
        content = json.loads(file.read_text())
        function(content)
        file.write_text(json.dumps(content))

    return change


def test_a_good_set(root):
    """Usable; counts as in the files; the official numbers are mentioned, nothing more."""
    check = check_coco(root, workers=1)
    assert check.is_usable and not check.findings.plain()
    for file, split, images, official in zip(check.files, ("train", "val"), (24, 6), ("118,287", "5,000"), strict=True):
        content = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
        assert file.counts["images"] == images
        assert file.counts["annotations"] == len(content["annotations"])
        assert file.counts["crowd_regions"] == sum(a["iscrowd"] for a in content["annotations"])
        errors = [p for p in file.findings.plain() if p["severity"] == "error"]
        assert not errors
        assert f"sets that do not have the official {official} images" in found(file.findings)


def test_lacking_files_are_listed(root):
    """All of them at once; what is there is still checked."""
    shutil.rmtree(root / "train2017")
    (root / "annotations/instances_train2017.json").unlink()
    check = check_coco(root, workers=1)
    assert not check.is_usable
    assert found(check.findings)[checking.LACKING_COCO.text] == (
        "error", 2, [str(root / "annotations/instances_train2017.json"), str(root / "train2017")])
    assert [file.ann_file.name for file in check.files] == ["instances_val2017.json"]


def test_missing_and_damaged_images(root, edit):
    """A damaged image is fatal in evaluation, and replaced in training; a missing one and one of another size are fatal."""
    names = {split: sorted(file.name for file in (root / f"{split}2017").iterdir()) for split in ("train", "val")}
    for split, (first, *_) in names.items():
        image = root / f"{split}2017" / first
        image.write_bytes(image.read_bytes()[:200])
    check = check_coco(root, workers=1)
    train, val = (found(file.findings) for file in check.files)
    assert train[checking.UNDECODABLE_IN_TRAINING.text][:2] == ("warning", 1)
    assert val[checking.UNDECODABLE.text][:2] == ("error", 1)
    assert names["val"][0] in val[checking.UNDECODABLE.text][2][0]
    assert not check.is_usable and not check.files[0].findings.has_fatal

    (root / "train2017" / names["train"][1]).unlink()
    edit("train", lambda content: content["images"][2].update(width=64))
    train = found(check_coco(root, workers=1).files[0].findings)
    assert train[checking.ABSENT.text] == ("error", 1, [names["train"][1]])
    severity, count, (offender,) = train[checking.OTHER_SIZE.text]
    assert (severity, count) == ("error", 1) and "128 x 128 pixels, annotated as 64 x 128" in offender


def test_sizes_are_those_of_the_upright_image(root, edit):
    """A phone's photograph is stored lying, with its orientation in EXIF; it is annotated as it is seen."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    name = json.loads((root / "annotations/instances_val2017.json").read_text())["images"][0]["file_name"]
    Image.new("RGB", (60, 40)).save(root / "val2017" / name, exif=exif)

    def resize(width, height):
        def change(content):
            content["images"][0].update(width=width, height=height)
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] != content["images"][0]["id"]]
        return change

    edit("val", resize(40, 60))
    assert checking.OTHER_SIZE.text not in found(check_coco(root, workers=1).files[1].findings)
    edit("val", resize(60, 40))
    assert checking.OTHER_SIZE.text in found(check_coco(root, workers=1).files[1].findings)


def test_all_problems_of_a_file_are_told_together(root, edit):
    """Fatal ones first, with their numbers; of many offenders the first five."""

    def spoil(content):
        annotations = content["annotations"]
        annotations[0].update(bbox=[500, 500, 10, 10])
        annotations[1].update(bbox=[100, 100, 50, 50])
        annotations[2].update(bbox=[3, 3, 0, 0])
        annotations[3].update(image_id=99)
        annotations[4].update(id=annotations[5]["id"])
        annotations[6].update(ignore=1)
        for annotation in annotations[8:15]:
            annotation["area"] = None

    edit("train", spoil)
    check = check_annotation_file(root / "annotations/instances_train2017.json", root / "train2017", workers=1)
    counts = {problem: (severity, count) for problem, (severity, count, _) in found(check.findings).items()}
    assert counts == {
        "ids that several annotations share": ("error", 1),
        "annotations with an image_id that the file does not list": ("error", 1),
        "areas that are no numbers from 0": ("error", 7),
        "boxes wholly outside their image": ("warning", 1),
        "annotations that reach more than a pixel out of their image": ("warning", 1),
        "boxes of no area, or under a pixel wide or high": ("warning", 1),
        'annotations marked "ignore"': ("warning", 1),
    }
    assert len(found(check.findings)["areas that are no numbers from 0"][2]) == 5
    severities = [entry["severity"] for entry in check.findings.plain()]
    assert severities == sorted(severities)


def test_categories_must_be_those_of_the_other_file(root, edit):
    """Of another name, or the same names in another order."""
    edit("val", lambda content: content["categories"][0].update(name="disc"))
    check = check_coco(root, workers=1)
    assert found(check.findings)[checking.OTHER_CATEGORIES.text] == ("error", 2, ["disc", "striped_disc"])
    edit("val", lambda content: content["categories"][0].update(name="striped_disc"))
    edit("val", lambda content: content["categories"].reverse())
    assert found(check_coco(root, workers=1).findings)[checking.OTHER_CATEGORIES.text] == ("error", 1, ["the order"])


def test_problems_of_images_do_not_pass_for_problems_of_their_annotations(root, edit):
    """An image without a size is told, not each of its annotations."""
    edit("train", lambda content: content["images"][0].pop("width"))
    check = check_annotation_file(root / "annotations/instances_train2017.json", root / "train2017", workers=1)
    assert [p["problem"] for p in check.findings.plain() if p["severity"] == "error"][0] == "images without the key 'width'"
    assert not any("image_id" in problem for problem in found(check.findings))


@pytest.fixture
def cityscapes_root(tmp_path):
    """Two cities a split, one image of 16 x 32 pixels with a car each, prepared."""
    root = tmp_path / "cityscapes"
    for split, cities in (("train", ("aachen", "ulm")), ("val", ("lindau", "munster"))):
        for city in cities:
            name = f"{city}_000000_000019"
            ids = np.full((16, 32), 7, dtype=np.uint16)
            ids[4:10, 5:20] = 26001
            for folder, suffix, image in (
                ("leftImg8bit", cityscapes.IMAGE_SUFFIX, Image.new("RGB", (32, 16))),
                ("gtFine", cityscapes.INSTANCES_SUFFIX, Image.fromarray(ids)),
            ):
                (root / folder / split / city).mkdir(parents=True)
                image.save(root / folder / split / city / (name + suffix))
    cityscapes.prepare_cityscapes(root, workers=1)
    return root


def test_a_good_cityscapes_tree(cityscapes_root):
    """Usable, with the official numbers mentioned; train's is another than val's."""
    check = check_cityscapes(cityscapes_root, workers=1)
    assert check.is_usable and not check.findings.plain()
    assert [file.counts["usable_objects"] for file in check.files] == [2, 2]
    for file, official in zip(check.files, ("2,975", "500"), strict=True):
        assert f"sets that do not have the official {official} images" in found(file.findings)


def test_a_spoilt_cityscapes_tree(cityscapes_root):
    """Missing and unfitting instanceIds, images that came later, missing annotations and folders."""
    aachen, ulm = (cityscapes_root / "gtFine/train" / city / f"{city}_000000_000019{cityscapes.INSTANCES_SUFFIX}"
                   for city in ("aachen", "ulm"))
    aachen.unlink()
    Image.fromarray(np.full((16, 31), 7, dtype=np.uint16)).save(ulm)
    lindau = cityscapes_root / "leftImg8bit/val/lindau"
    shutil.copy(lindau / "lindau_000000_000019_leftImg8bit.png", lindau / "lindau_000001_000019_leftImg8bit.png")
    cityscapes.annotation_file(cityscapes_root, "train").unlink()
    check = check_cityscapes(cityscapes_root, workers=1)
    problems = found(check.findings)
    missing = ["aachen/aachen_000000_000019_leftImg8bit.png", "lindau/lindau_000001_000019_leftImg8bit.png"]
    assert problems[checking.NO_INSTANCE_IDS.text] == ("error", 2, missing)
    assert "is 31 x 16 pixels, its image 32 x 16" in problems[checking.BAD_INSTANCE_IDS.text][2][0]
    assert problems[checking.UNPREPARED.text][:2] == ("error", 1)
    assert found(check.files[0].findings)[checking.NOT_LISTED.text] == ("warning", 1, missing[1:])

    shutil.rmtree(cityscapes_root / "gtFine")
    check = check_cityscapes(cityscapes_root, workers=1)
    assert found(check.findings)[checking.LACKING_CITYSCAPES.text][:2] == ("error", 2)
