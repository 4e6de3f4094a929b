"""Annotation files: checked before training, read as pycocotools and mmdet read them, subset and merged without loss."""

from __future__ import annotations

import copy
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loco_det.datasets import coco as coco_module
from loco_det.datasets.checks import compressed_pixel_count
from loco_det.datasets.coco import (
    AnnotationError,
    absent_images,
    category_names,
    check_annotation_file,
    check_coco,
    derive,
    load_annotations,
    read_image_ids,
)


@pytest.fixture
def coco(tmp_path):
    """Three images, three categories in two supercategories, ids with gaps; returns (content, load)."""
    images = [dict(id=i, file_name=f"{i}.jpg", width=10, height=10) for i in (5, 7, 11)]
    common = dict(bbox=[0, 0, 2, 2], area=4, segmentation=[[0, 0, 2, 0, 2, 2]], iscrowd=0)
    placed = [(5, 1), (5, 4), (7, 9), (11, 4)]
    annotations = [dict(id=k, image_id=i, category_id=c, **common) for k, (i, c) in enumerate(placed, start=1)]
    categories = [dict(id=1, name="cat", supercategory="animal"), dict(id=4, name="car", supercategory="vehicle"),
                  dict(id=9, name="dog", supercategory="animal")]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / "images").mkdir()
    for image in images:
        (tmp_path / "images" / image["file_name"]).touch()

    def load(masks=True):
        (tmp_path / "ann.json").write_text(json.dumps(content))
        return load_annotations(tmp_path / "ann.json", tmp_path / "images", masks)

    return content, load


def test_subset_keeps_exactly_its_images(coco):
    """Images and their annotations, in the file's order; the original is not changed."""
    content, load = coco
    loaded = load()
    subset = derive(loaded, image_ids=[11, 5])
    assert [image["id"] for image in subset["images"]] == [5, 11]
    assert [a["id"] for a in subset["annotations"]] == [1, 2, 4]
    assert loaded == content


def test_supercategories_are_merged(coco):
    """cat and dog become animal; the number of annotations stays."""
    merged = derive(coco[1](), supercategories=True)
    assert category_names(merged) == ["animal", "vehicle"]
    assert [a["category_id"] for a in merged["annotations"]] == [1, 2, 1, 2]
    del coco[0]["categories"][1]["supercategory"]
    with pytest.raises(AnnotationError, match="'car'"):
        derive(coco[1](), supercategories=True)


def annotation(**values):
    return lambda content: content["annotations"][2].update(values)


def runs(**values):
    return annotation(segmentation=dict(size=[10, 10], counts=[100]) | values)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda c: c.pop("categories"), "'categories'"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "no images"),
        (lambda c: c["images"][1].pop("width"), "'width': 1 .entry 1"),
        (lambda c: c["images"].append("x"), "entry 3"),
        (lambda c: c["images"][1].update(id=5), "share an id: 1 .5"),
        (lambda c: c["images"][1].update(id="7"), "images whose id .*'7'"),
        (lambda c: c["images"][1].update(id=10**19), "images whose id .*10000000000000000000"),
        (lambda c: c["images"][1].update(file_name=7), "file_name .*image 7"),
        (lambda c: c["images"][1].update(width=10.0), "image 7: .10.0, 10"),
        (lambda c: c["images"][1].update(file_name="gone.jpg"), "1 of 3 images .*gone.jpg"),
        (lambda c: c["images"][1].update(file_name="\ud800.jpg"), "1 of 3 images .*ud800.jpg"),
        (lambda c: c["categories"][1].update(id=1), "categories that share an id"),
        (lambda c: c["categories"][1].update(name="dog"), "share a name: 1 .dog"),
        (lambda c: c["categories"][1].update(name=["dog"]), "category 4"),
        (annotation(id=1), "annotations that share an id"),
        (lambda c: c["annotations"][2].pop("iscrowd"), "'iscrowd': 1 .entry 2"),
        (annotation(image_id="7"), "image_id .*annotation 3: '7'"),
        (annotation(image_id=[7]), "image_id .*annotation 3"),
        (annotation(category_id=9.0), "category_id .*annotation 3: 9.0"),
        (annotation(bbox=[0, 0, 2]), r"boxes .*annotation 3: \[0, 0, 2\]"),
        (annotation(bbox=[0, 0, 2, math.nan]), "boxes .*nan"),
        (annotation(bbox=["0", 0, 2, 2]), "boxes"),
        (annotation(bbox=[5, 5, -2, 2]), "boxes"),
        (annotation(bbox=None), "boxes"),
        (annotation(area=math.inf), "areas"),
        (annotation(area="4"), "areas"),
        (annotation(iscrowd=2), "iscrowd .*annotation 3: 2"),
        (lambda c: [a.pop("segmentation") for a in c["annotations"][1:]], "without a segmentation: 3 .annotation 2"),
        (annotation(segmentation=[]), "without a segmentation"),
        (annotation(segmentation=[0, 0, 2, 0, 2, 2]), "lists of polygons"),
        (annotation(segmentation=[["0", 0, 2, 0, 2, 2]]), "lists of polygons"),
        (annotation(segmentation=[[math.nan, 0, 2, 0, 2, 2]]), "lists of polygons"),
        (annotation(segmentation=[[0, 0, 2, 0, 2, 2, 0]]), "lists of polygons"),
        (annotation(segmentation=[[0, 0, 2, 2]]), "three points"),
        (annotation(segmentation="polygon"), "not run lengths"),
        (annotation(segmentation=dict(size=[10, 10])), "not run lengths"),
        (runs(counts=[10.5] * 8 + [16.0]), "not run lengths"),
        (runs(counts=[]), "not run lengths"),
        (runs(size=[10, 20]), r"another size .*\[10, 20\]"),
        (runs(counts=[5, 5]), "another size"),
        (runs(counts=[150, -50]), "another size"),
        (runs(counts="hello"), "another size"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "an object to learn"),
        (lambda c: [a.update(bbox=[0, 0, 0, 2]) for a in c["annotations"]], "an object to learn"),
        (lambda c: c["annotations"].clear(), "an object to learn"),
    ],
)
def test_broken_files_are_refused(coco, spoil, found):
    """With the file, how often the issue occurs, the entry and the value."""
    content, load = coco
    spoil(content)
    with pytest.raises(AnnotationError, match=found) as caught:
        load()
    assert "ann.json" in str(caught.value)


def test_boxes_alone_are_enough_for_a_detector_without_masks(coco):
    """Whatever the key is or holds; a detector of masks refuses them."""
    content, load = coco
    del content["annotations"][0]["segmentation"]
    content["annotations"][1]["segmentation"] = []
    content["annotations"][2]["segmentation"] = None
    assert load(masks=False) == content
    with pytest.raises(AnnotationError, match="without a segmentation: 3"):
        load()


def test_further_kinds_of_issues_are_counted(coco):
    """Whoever fixes the first knows that it is not the last; warnings do not count."""
    content, load = coco
    content["annotations"][0].update(area="4")
    content["annotations"][1].update(iscrowd=2)
    content["annotations"][2].update(bbox=[20, 20, 5, 5])
    content["annotations"][3].update(bbox=None)
    with pytest.raises(AnnotationError, match="areas .* 2 more kinds"):
        load()


def test_what_is_harmless_is_accepted_unchanged(coco):
    """Boxes of no area and outside, unused categories, images without annotations, an image listed twice, foreign keys."""
    content, load = coco
    content["annotations"][0].update(bbox=[3, 3, 0, 2], area=0.0, confidence=0.5)
    content["annotations"][1].update(bbox=[20, 20, 5, 5])
    content["annotations"][2].update(image_id=5, category_id=1, ignore=1)
    content["images"].append(dict(content["images"][0], id=-3))
    assert load() == content


def test_id_zero_is_numbered_again_because_evaluation_takes_it_for_a_miss(coco):
    """pycocotools finds AP 1 for perfect predictions only after the fix."""
    content, load = coco
    for number, entry in enumerate(content["annotations"]):
        entry["id"] = number
    loaded = load()
    assert [entry["id"] for entry in loaded["annotations"]] == [1, 2, 3, 4]
    assert perfect_ap(content) < 0.9
    assert perfect_ap(loaded) == pytest.approx(1.0)


def perfect_ap(content):
    """pycocotools' box AP of the ground truth as predictions."""
    truth = COCO()
    truth.dataset = copy.deepcopy(content)
    truth.createIndex()
    keys = ("image_id", "category_id", "bbox")
    found = truth.loadRes([{**{key: a[key] for key in keys}, "score": 1.0} for a in content["annotations"]])
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_lines_beside_polygons_are_left_out(coco):
    """pycocotools would take a first polygon of two points for a box and end; the mask stays that of the proper polygon."""
    content, load = coco
    content["annotations"][1]["segmentation"] = [[5, 5, 6, 6], [0, 0, 4, 0, 4, 4, 0, 4], [1, 1]]
    assert load()["annotations"][1]["segmentation"] == [[0, 0, 4, 0, 4, 4, 0, 4]]


def test_absolute_and_nested_paths_and_any_letters(coco, tmp_path):
    """Each is found; of those that are not there every one is named."""
    content, load = coco
    elsewhere = tmp_path / "elsewhere" / "größe 日本.jpg"
    nested = tmp_path / "images" / "a" / "b" / "ünï.jpg"
    for file in (elsewhere, nested):
        file.parent.mkdir(parents=True)
        file.touch()
    content["images"][0]["file_name"] = str(elsewhere)
    content["images"][1]["file_name"] = "a/b/ünï.jpg"
    assert load() == content
    names = [str(elsewhere), "a/b/ünï.jpg", "a/b/uni.jpg", "c/x.jpg", str(tmp_path / "y.jpg"), "11.jpg"]
    assert absent_images(names, tmp_path / "images") == ["a/b/uni.jpg", "c/x.jpg", str(tmp_path / "y.jpg")]


def test_only_image_ids_are_read_for_splits(tmp_path):
    """Neither annotations nor image files are needed; ids must be integers and distinct."""
    file = tmp_path / "ann.json"
    file.write_text('{"images": [{"id": 7}, {"id": 5}]}')
    assert read_image_ids(file) == [7, 5]
    for text in ('{"images": []}', '{"images": [{"id": 7}, {}]}', '{"images": [{"id": 7}, {"id": 7}]}',
                 '{"images": [{"id": 7.0}]}'):
        file.write_text(text)
        with pytest.raises(AnnotationError):
            read_image_ids(file)


@pytest.mark.parametrize("content", [None, b"[]", b"{}", b'{"images": [', b"\xef\xbb\xbf{}", '{"a": "ö"}'.encode("latin-1"),
                                     "{}".encode("utf-16")])
def test_other_files_are_refused(tmp_path, content):
    """No file, no annotation file, and encodings that pycocotools, which opens the file later, cannot read."""
    if content is not None:
        (tmp_path / "ann.json").write_bytes(content)
    with pytest.raises(AnnotationError, match="ann.json"):
        load_annotations(tmp_path / "ann.json", tmp_path)


HEIGHT, WIDTH = 40, 50


def run_lengths(mask):
    """Lengths of the runs of a ``(H, W)`` mask down its columns, beginning with background."""
    found, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            found.append(0)
            value = pixel
        found[-1] += 1
    return found


@pytest.mark.parametrize("density", [0.0, 0.001, 0.03, 0.5, 0.97, 1.0])
def test_compressed_runs_add_up_to_the_image(density):
    """For what pycocotools writes, of any size; every truncation and stray character is noticed."""
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 300), (120, 90), (300, 5)):
        mask = (rng.random((height, width)) < density).astype(np.uint8)
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        assert compressed_pixel_count(counts) == height * width
        for end in range(max(0, len(counts) - 40), len(counts)):
            assert compressed_pixel_count(counts[:end]) != height * width
    for damaged in ("", "é", "p", "\x00", "PPYo0PPo", "o" * 12 + "0"):
        assert compressed_pixel_count(damaged) is None


def test_mmdet_and_pycocotools_read_what_is_accepted_as_it_is_meant(tmp_path):
    """Masks by polygon and both run lengths, class labels over gaps and out of order, crowds ignored, boxes of no area left
    out, in an image with non-ASCII letters given by its absolute path."""
    import loco_det.register  # noqa: F401
    from loco_det.datasets.dataset import CocoInstances

    rectangle = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    rectangle[4:14, 6:26] = 1
    blob = (np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3).astype(np.uint8)
    compressed = coco_mask.encode(np.asfortranarray(blob))
    encodings = [
        (rectangle, [[6, 4, 26, 4, 26, 14, 6, 14]]),
        (blob, dict(size=[HEIGHT, WIDTH], counts=run_lengths(blob))),
        (blob, dict(size=[HEIGHT, WIDTH], counts=compressed["counts"].decode())),
    ]
    image = tmp_path / "größe 日本.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)).save(image)
    categories = [dict(id=90, name="zebra"), dict(id=0, name="köttbulle"), dict(id=7, name="cat")]
    common = dict(image_id=3, bbox=[6, 4, 20, 10], area=200)
    annotations = [
        dict(common, id=k, category_id=categories[k]["id"], segmentation=segmentation, iscrowd=int(k == 1))
        for k, (_, segmentation) in enumerate(encodings)
    ]
    annotations.append(dict(annotations[0], id=3, bbox=[6, 4, 0, 10]))
    images = [dict(id=3, file_name=str(image), width=WIDTH, height=HEIGHT)]
    ann_file = tmp_path / "ann.json"
    ann_file.write_text(json.dumps(dict(images=images, categories=categories, annotations=annotations)))

    content = load_annotations(ann_file, tmp_path)
    ann_file.write_text(json.dumps(content))
    names = category_names(content)
    dataset = CocoInstances(
        ann_file=str(ann_file), data_prefix=dict(img=str(tmp_path)), metainfo=dict(classes=names),
        pipeline=[dict(type="mmdet.LoadImage"), dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True)],
    )
    sample = dataset[0]
    assert [names[label] for label in sample["gt_bboxes_labels"]] == ["zebra", "köttbulle", "cat"]
    assert sample["gt_ignore_flags"].tolist() == [False, True, False]
    truth = COCO(str(ann_file))
    for (mask, _), read, entry in zip(encodings, sample["gt_masks"].masks, content["annotations"][:3], strict=True):
        np.testing.assert_array_equal(read, mask)
        np.testing.assert_array_equal(truth.annToMask(entry), mask)


def found(issues):
    """Kinds with their severities, counts and first places."""
    return {entry["issue"]: (entry["severity"], entry["count"], entry["first"]) for entry in issues.plain()}


@pytest.fixture
def root(synthetic_root, tmp_path):
    """A copy of the synthetic set, to be spoilt."""
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


def check_train(root):
    return check_annotation_file(root / "annotations/instances_train2017.json", root / "train2017", workers=1)


def test_a_good_set(root):
    """Usable; counts as in the files; the official numbers are mentioned, nothing more."""
    check = check_coco(root, workers=1)
    assert check.is_usable and not check.issues.plain()
    for file, split, images in zip(check.files, ("train", "val"), (24, 6), strict=True):
        content = json.loads((root / f"annotations/instances_{split}2017.json").read_text())
        assert file.counts["images"] == images
        assert file.counts["annotations"] == len(content["annotations"])
        assert file.counts["crowd_regions"] == sum(a["iscrowd"] for a in content["annotations"])
        assert not file.issues.fatal and any("official" in issue.kind for issue in file.issues)


def test_missing_files_are_listed(root):
    """All of them at once; what is there is still checked."""
    shutil.rmtree(root / "train2017")
    (root / "annotations/instances_train2017.json").unlink()
    check = check_coco(root, workers=1)
    assert not check.is_usable
    assert list(found(check.issues).values()) == [
        ("error", 2, [str(root / "annotations/instances_train2017.json"), str(root / "train2017")])]
    assert [file.ann_file.name for file in check.files] == ["instances_val2017.json"]


def test_missing_and_corrupt_images(root, edit):
    """A corrupt image is fatal in evaluation, and replaced in training; a missing one and one of another size are fatal."""
    names = {split: sorted(file.name for file in (root / f"{split}2017").iterdir()) for split in ("train", "val")}
    for split, (first, *_) in names.items():
        image = root / f"{split}2017" / first
        image.write_bytes(image.read_bytes()[:200])
    train, val = (found(file.issues) for file in check_coco(root, workers=1).files)
    assert train["corrupt images"][:2] == ("warning", 1)
    assert val["corrupt images"][:2] == ("error", 1) and names["val"][0] in val["corrupt images"][2][0]
    assert not check_train(root).issues.fatal  # of unknown use

    (root / "train2017" / names["train"][1]).unlink()
    edit("train", lambda content: content["images"][2].update(width=64))
    train = found(check_coco(root, workers=1).files[0].issues)
    assert train["images that are not in their folder"] == ("error", 1, [names["train"][1]])
    assert train["images of another size than annotated"][:2] == ("error", 1)


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

    for size, fits in (((40, 60), True), ((60, 40), False)):
        edit("val", resize(*size))
        assert ("images of another size than annotated" in found(check_coco(root, workers=1).files[1].issues)) != fits


def test_all_issues_of_a_file_are_reported_together(root, edit):
    """Fatal ones first, with their numbers; of many places the first five."""

    def spoil(content):
        annotations = content["annotations"]
        annotations[0].update(bbox=[500, 500, 10, 10])
        annotations[1].update(bbox=[70, 70, 50, 50])
        annotations[2].update(bbox=[3, 3, 0, 0])
        annotations[3].update(image_id=99)
        annotations[4].update(bbox=[0, 0, 90, 90], segmentation=[[0.1, 0.2, 0.3, 0.2, 0.3, 0.4]])  # shares, not pixels
        for entry in annotations[8:15]:
            entry["area"] = None

    edit("train", spoil)
    check = check_train(root)
    counts = [(severity, count) for severity, count, _ in found(check.issues).values()]
    assert sorted(counts) == [("error", 1), ("error", 7), *[("warning", 1)] * 4]
    assert len(found(check.issues)["areas that are not numbers from 0"][2]) == 5
    severities = [entry["severity"] for entry in check.issues.plain()]
    assert severities == sorted(severities)


def test_categories_must_be_those_of_the_other_file(root, edit):
    """Of another name, or the same names in another order."""
    edit("val", lambda content: content["categories"][0].update(name="disc"))
    [(_, _, [first])] = found(check_coco(root, workers=1).issues).values()
    assert "disc, vertical_top" in first
    edit("val", lambda content: content["categories"][0].update(name="vertical_top"))
    edit("val", lambda content: content["categories"].reverse())
    [(_, _, [first])] = found(check_coco(root, workers=1).issues).values()
    assert "order" in first


def test_issues_of_images_are_not_reported_again_for_their_annotations(root, edit):
    """An image without a size is one issue."""
    edit("train", lambda content: content["images"][0].pop("width"))
    assert list(found(check_train(root).issues)) == ["images without the key 'width'"]


def test_boxes_alone_are_a_set_of_their_own(root, edit):
    """A warning where no annotation has a mask, an error where some have."""
    edit("train", lambda content: [a.pop("segmentation") for a in content["annotations"][1:]])
    assert found(check_train(root).issues)["annotations without a segmentation"][0] == "error"
    edit("train", lambda content: content["annotations"][0].pop("segmentation"))
    assert found(check_train(root).issues) == {"annotations without a segmentation": ("warning", 1, ["all of them"])}


def test_small_images_are_left_out_of_training(root, edit):
    """A warning for what may be trained on."""
    content = json.loads((root / "annotations/instances_train2017.json").read_text())
    first = content["images"][0]
    Image.new("RGB", (16, 16)).save(root / "train2017" / first["file_name"])
    edit("train", lambda content: content["images"][0].update(width=16, height=16))
    assert found(check_train(root).issues)[f"images under {coco_module.MIN_SIDE} pixels"][:2] == ("warning", 1)
