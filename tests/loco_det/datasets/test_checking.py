"""Checks of whole data sets: every kind of problem is found where it is, and said to be fatal where it is."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from loco_det.datasets import checking, cityscapes
from loco_det.datasets.annotation_checks import UNCHECKED
from loco_det.datasets.checking import check_annotation_file, check_cityscapes, check_coco
from tests.conftest import ROOT


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
    assert train[checking.CORRUPT_IN_TRAINING.text][:2] == ("warning", 1)
    assert val[checking.CORRUPT.text][:2] == ("error", 1)
    assert names["val"][0] in val[checking.CORRUPT.text][2][0]
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
    total = len(json.loads((root / "annotations/instances_train2017.json").read_text())["annotations"])
    assert found(check.findings)[UNCHECKED.text] == ("warning", 1, [f"{total} annotations"])


def test_a_file_of_unknown_use_may_hold_corrupt_images(root):
    """Training goes on without them; the warning says that evaluation would not."""
    name = sorted(file.name for file in (root / "train2017").iterdir())[0]
    (root / "train2017" / name).write_bytes(b"no image")
    check = check_annotation_file(root / "annotations/instances_train2017.json", root / "train2017", workers=1)
    assert not check.findings.has_fatal
    (problem,) = [p for p in check.findings.plain() if p["problem"] == checking.CORRUPT.text]
    assert (problem["severity"], problem["count"]) == ("warning", 1)
    assert "evaluation on this file would end" in problem["mend"]


def shrink(root, split, positions):
    """Makes images of a split, and what is annotated in them, an eighth as large: 128 pixels become 16."""
    file = root / f"annotations/instances_{split}2017.json"
    content = json.loads(file.read_text())
    ids = {content["images"][i]["id"] for i in positions}
    for image in (image for image in content["images"] if image["id"] in ids):
        image.update(width=image["width"] // 8, height=image["height"] // 8)
        Image.new("RGB", (image["width"], image["height"])).save(root / f"{split}2017" / image["file_name"])
    for annotation in (a for a in content["annotations"] if a["image_id"] in ids):
        annotation.update(bbox=[1, 1, 9, 9], area=81, segmentation=[[1, 1, 10, 1, 10, 10, 1, 10]], iscrowd=0)
    file.write_text(json.dumps(content))


def test_images_that_training_leaves_out(root):
    """Some are a warning; where no object remains training would end, and evaluation would not."""
    shrink(root, "train", [0, 1])
    shrink(root, "val", range(6))
    check = check_coco(root, workers=1)
    train, val = (found(file.findings) for file in check.files)
    assert train[checking.SMALL.text][:2] == ("warning", 2) and "16 x 16" in train[checking.SMALL.text][2][0]
    assert checking.SMALL.text not in val and check.is_usable

    shrink(root, "train", range(2, 24))
    check = check_coco(root, workers=1)
    assert found(check.files[0].findings)[checking.ONLY_SMALL.text] == ("error", 1, ["24 of 24 images are smaller"])
    assert not check.is_usable


def test_an_image_without_objects_does_not_make_up_for_small_ones(root, edit):
    """mmdet leaves images without annotations out, too."""
    shrink(root, "train", range(1, 24))

    def clear_first(content):
        first = content["images"][0]["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first]

    edit("train", clear_first)
    assert checking.ONLY_SMALL.text in found(check_coco(root, workers=1).files[0].findings)


@pytest.mark.parametrize("name", ["mask_rcnn_loco_coco", "mask_rcnn_loco_coco1k", "mask_rcnn_loco_cityscapes"])
def test_the_smallest_side_is_the_configs(name):
    """What the check calls small is what training leaves out."""
    config = Config.fromfile(str(ROOT / f"configs/{name}.py"), import_custom_modules=False)
    assert config.train_dataloader.dataset.filter_cfg.min_size == checking.MIN_SIDE


def test_lone_surrogates_can_be_printed(root, edit):
    """JSON lets them through, UTF-8 does not."""
    edit("val", lambda content: content["images"][0].update(file_name="\ud800.jpg"))
    check = check_coco(root, workers=1)
    "\n".join(check.lines()).encode("utf-8")
    assert found(check.files[1].findings)[checking.ABSENT.text] == ("error", 1, ["\\ud800.jpg"])


@pytest.mark.parametrize("name", [["disc"], {"en": "disc"}, 7, None], ids=str)
def test_category_names_that_are_no_text_are_reported(root, edit, name):
    """Not compared with the other file's."""
    edit("val", lambda content: content["categories"][0].update(name=name))
    check = check_coco(root, workers=1)
    assert "categories without a name" in found(check.files[1].findings)
    assert not check.findings.plain()


@pytest.fixture
def cityscapes_root(tmp_path):
    """Two cities a split, one image of 32 x 64 pixels with a car each, prepared."""
    root = tmp_path / "cityscapes"
    for split, cities in (("train", ("aachen", "ulm")), ("val", ("lindau", "munster"))):
        for city in cities:
            name = f"{city}_000000_000019"
            ids = np.full((32, 64), 7, dtype=np.uint16)
            ids[4:10, 5:20] = 26001
            for folder, suffix, image in (
                ("leftImg8bit", cityscapes.IMAGE_SUFFIX, Image.new("RGB", (64, 32))),
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
    Image.fromarray(np.full((32, 63), 7, dtype=np.uint16)).save(ulm)
    lindau = cityscapes_root / "leftImg8bit/val/lindau"
    shutil.copy(lindau / "lindau_000000_000019_leftImg8bit.png", lindau / "lindau_000001_000019_leftImg8bit.png")
    cityscapes.annotation_file(cityscapes_root, "train").unlink()
    check = check_cityscapes(cityscapes_root, workers=1)
    problems = found(check.findings)
    missing = ["aachen/aachen_000000_000019_leftImg8bit.png", "lindau/lindau_000001_000019_leftImg8bit.png"]
    assert problems[checking.NO_INSTANCE_IDS.text] == ("error", 2, missing)
    assert "is 63 x 32 pixels, its image 64 x 32" in problems[checking.BAD_INSTANCE_IDS.text][2][0]
    assert problems[checking.UNPREPARED.text][:2] == ("error", 1)
    assert found(check.files[0].findings)[checking.NOT_LISTED.text] == ("warning", 1, missing[1:])

    shutil.rmtree(cityscapes_root / "gtFine")
    check = check_cityscapes(cityscapes_root, workers=1)
    assert found(check.findings)[checking.LACKING_CITYSCAPES.text][:2] == ("error", 2)


def rewrite(file, function):
    content = json.loads(file.read_text())
    function(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda content: content["images"][0].pop("file_name"), "images without the key 'file_name'"),
        (lambda content: content["images"].append("lindau.png"), "entries of 'images' that are no objects"),
        (lambda content: content["images"][0].update(file_name=["lindau.png"]), "images without a file name"),
    ],
)
def test_entries_of_cityscapes_that_are_none_are_reported(cityscapes_root, spoil, problem):
    """They are found, not stumbled over."""
    rewrite(cityscapes.annotation_file(cityscapes_root, "val"), spoil)
    assert found(check_cityscapes(cityscapes_root, workers=1).files[1].findings)[problem][:2] == ("error", 1)


def test_categories_that_the_benchmark_does_not_know(cityscapes_root):
    """The official evaluation refuses them, after training."""
    for split in ("train", "val"):
        rewrite(cityscapes.annotation_file(cityscapes_root, split),
                lambda content: content["categories"][0].update(name="pedestrian"))
    check = check_cityscapes(cityscapes_root, workers=1)
    assert not check.is_usable
    for file in check.files:
        assert found(file.findings)[checking.OTHER_CLASSES.text] == ("error", 1, ["pedestrian"])
