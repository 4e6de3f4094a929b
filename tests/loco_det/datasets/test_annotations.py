"""Annotation files: checked before training, subset and merged without loss."""

from __future__ import annotations

import copy
import json
import math

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from loco_det.datasets.annotations import (
    AnnotationError,
    absent_images,
    category_names,
    derive,
    load_annotations,
    read_image_ids,
)


@pytest.fixture
def coco(tmp_path):
    """Three images, three categories in two supercategories, ids with gaps; returns (content, write)."""
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

    def load():
        (tmp_path / "ann.json").write_text(json.dumps(content))
        return load_annotations(tmp_path / "ann.json", tmp_path / "images")

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


def test_a_category_without_supercategory_cannot_be_merged(coco):
    """Named."""
    del coco[0]["categories"][1]["supercategory"]
    with pytest.raises(AnnotationError, match="'car' has no supercategory"):
        derive(coco[1](), supercategories=True)


def spoil_annotation(index=2, **values):
    return lambda content: content["annotations"][index].update(values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("categories"), "lacks the list 'categories'"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "has no images"),
        (lambda c: c["images"][1].pop("width"), r"images without the key 'width': 1 \(entry 1, id 7\)"),
        (lambda c: c["images"].append("x"), r"entries of 'images' that are no objects: 1 \(entry 3\)"),
        (lambda c: c["images"][1].update(id=5), r"ids that several images share: 1 \(5\)"),
        (lambda c: c["images"][1].update(id="7"), r"ids of images that are no integers: 1 \('7'\)"),
        (lambda c: c["images"][1].update(file_name=7), r"images without a file name: 1 \(image 7: 7\)"),
        (lambda c: c["images"][1].update(width=10.0), r"no positive integer: 1 \(image 7: \(10.0, 10\)\)"),
        (lambda c: c["images"][1].update(file_name="gone.jpg"), r"1 of 3 images of .*ann.json are not in .*gone.jpg"),
        (lambda c: c["categories"][1].update(id=1), r"ids that several categories share: 1 \(1\)"),
        (lambda c: c["categories"][1].update(name="dog"), r"category names that occur more than once: 1 \(dog\)"),
        (lambda c: c["categories"][1].update(name=""), r"categories without a name: 1 \(category 4: ''\)"),
        (spoil_annotation(id=1), r"ids that several annotations share: 1 \(1\)"),
        (spoil_annotation(id=3.0), r"ids of annotations that are no integers: 1 \(3.0\)"),
        (spoil_annotation(image_id=99), r"an image_id that the file does not list: 1 \(annotation 3: 99\)"),
        (spoil_annotation(image_id=[7]), r"an image_id that the file does not list: 1 \(annotation 3: \[7\]\)"),
        (spoil_annotation(category_id=2), r"a category_id that the file does not list: 1 \(annotation 3: 2\)"),
        (spoil_annotation(category_id=9.0), r"a category_id that the file does not list: 1 \(annotation 3: 9.0\)"),
        (spoil_annotation(bbox=[0, 0, 2]), r"boxes that are not .*: 1 \(annotation 3: \[0, 0, 2\]\)"),
        (spoil_annotation(bbox=[0, 0, 2, math.nan]), r"boxes that are not .*: 1 \(annotation 3: \[0, 0, 2, nan\]\)"),
        (spoil_annotation(bbox=["0", 0, 2, 2]), "boxes that are not"),
        (spoil_annotation(bbox=[5, 5, -2, 2]), "boxes that are not"),
        (spoil_annotation(bbox=None), "boxes that are not"),
        (spoil_annotation(area=math.inf), "areas that are no numbers from 0"),
        (spoil_annotation(area="4"), "areas that are no numbers from 0"),
        (spoil_annotation(iscrowd=2), "iscrowd other than 0 and 1"),
        (lambda c: [a.pop("segmentation") for a in c["annotations"][1:]],
         r"without a segmentation: 3 \(annotation 2, annotation 3, annotation 4\); Mask R-CNN needs masks"),
        (spoil_annotation(segmentation=[]), r"without a segmentation: 1 \(annotation 3: \[\]\)"),
        (spoil_annotation(segmentation=None), "without a segmentation"),
        (spoil_annotation(segmentation=[0, 0, 2, 0, 2, 2]), "no lists of polygons"),
        (spoil_annotation(segmentation=[["0", 0, 2, 0, 2, 2]]), "no lists of polygons"),
        (spoil_annotation(segmentation=[[math.nan, 0, 2, 0, 2, 2]]), "no lists of polygons"),
        (spoil_annotation(segmentation=[[0, 0, 2, 2]]), "without a polygon of three points"),
        (spoil_annotation(segmentation=[[0, 0, 2, 0, 2]]), "without a polygon of three points"),
        (spoil_annotation(segmentation=[[0, 0, 2, 0, 2, 2, 0]]), "no lists of polygons"),
        (spoil_annotation(segmentation=[[0, 0, 4, 0, 4, 4, 0, 4, 1, 1, 2], [0, 0, 1, 0, 1, 1]]), "x and y of every point"),
        (spoil_annotation(segmentation=[[0, 0, 1e9, 0, 2, 2]]), "further than ten sides"),
        (spoil_annotation(segmentation="polygon"), "no run lengths"),
        (spoil_annotation(segmentation=dict(size=[10, 10])), "no run lengths"),
        (spoil_annotation(segmentation=dict(size=[10, 20], counts=[100, 100])), r"of another size .*\[10, 20\]"),
        (spoil_annotation(segmentation=dict(size=[10, 10], counts=[5, 5])), r"do not add up .*: 1 \(annotation 3: 10\)"),
        (spoil_annotation(segmentation=dict(size=[10, 10], counts=[150, -50])), "do not add up"),
        (spoil_annotation(segmentation=dict(size=[10, 10], counts=[10.5] * 8 + [16.0])), "no run lengths"),
        (spoil_annotation(segmentation=dict(size=[10, 10], counts=[True] * 100)), "no run lengths"),
        (spoil_annotation(segmentation=dict(size=[10.0, 10], counts=[100])), "no run lengths"),
        (spoil_annotation(segmentation=dict(size=[10, 10], counts=[])), "no run lengths"),
        (spoil_annotation(segmentation=dict(size=[10, 10], counts="hello")), "do not add up"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "files without an object to learn"),
        (lambda c: [a.update(bbox=[0, 0, 0, 2]) for a in c["annotations"]], "files without an object to learn"),
        (lambda c: c["annotations"].clear(), r"files without an object to learn: 1 \(0 annotations\)"),
    ],
)
def test_broken_files_are_named(coco, spoil, message):
    """File, kind of problem, how often it occurs, entry and value."""
    content, load = coco
    spoil(content)
    with pytest.raises(AnnotationError, match=message) as caught:
        load()
    assert "ann.json" in str(caught.value)


def test_further_kinds_of_problems_are_counted(coco):
    """Whoever mends the first knows that it is not the last; warnings do not count."""
    content, load = coco
    content["annotations"][0].update(area="4")
    content["annotations"][1].update(iscrowd=2)
    content["annotations"][2].update(bbox=[20, 20, 5, 5])
    content["annotations"][3].update(bbox=None)
    with pytest.raises(AnnotationError, match=r"areas .*\(and 2 more kinds; tools/prepare_data.py check lists them\)$"):
        load()
    content["annotations"] = content["annotations"][:1]
    with pytest.raises(AnnotationError) as caught:
        load()
    assert "more kinds" not in str(caught.value)


def test_what_is_harmless_is_accepted_unchanged(coco):
    """Boxes of no area and outside, unused categories, images without annotations, an image listed twice, foreign keys."""
    content, load = coco
    content["annotations"][0].update(bbox=[3, 3, 0, 2], area=0.0, confidence=0.5)
    content["annotations"][1].update(bbox=[20, 20, 5, 5])
    content["annotations"][2].update(image_id=5, category_id=1, ignore=1)
    content["images"].append(dict(content["images"][0], id=-3))
    assert load() == content


def test_id_zero_is_numbered_anew_because_evaluation_takes_it_for_a_miss(coco):
    """pycocotools finds AP 1 for perfect predictions only after the mend."""
    content, load = coco
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
    loaded = load()
    assert [annotation["id"] for annotation in loaded["annotations"]] == [1, 2, 3, 4]
    assert perfect_ap(content) < 0.9
    assert perfect_ap(loaded) == pytest.approx(1.0)


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
    for text, message in (
        ('{"images": []}', "has no images"),
        ('{"images": [{"id": 7}, {}]}', "entry 1 of 'images' lacks the key 'id'"),
        ('{"images": [{"id": 7}, {"id": 7}]}', r"share: 1 \(7\)"),
        ('{"images": [{"id": 7.0}]}', r"no integers: 1 \(7.0\)"),
    ):
        file.write_text(text)
        with pytest.raises(AnnotationError, match=message):
            read_image_ids(file)


def test_byte_order_marks_and_other_encodings_are_refused(tmp_path):
    """pycocotools opens the same file later and would end on them."""
    (tmp_path / "ann.json").write_bytes(b"\xef\xbb\xbf{}")
    with pytest.raises(AnnotationError, match="byte order mark"):
        load_annotations(tmp_path / "ann.json", tmp_path)
    (tmp_path / "ann.json").write_bytes('{"name": "größe"}'.encode("latin-1"))
    with pytest.raises(AnnotationError, match="ann.json is not JSON"):
        load_annotations(tmp_path / "ann.json", tmp_path)


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


def test_not_json_not_there_not_a_dict(tmp_path):
    """The file is in the message."""
    with pytest.raises(AnnotationError, match="a.json does not exist"):
        load_annotations(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(AnnotationError, match="a.json is not JSON"):
        load_annotations(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(AnnotationError, match="holds a list"):
        load_annotations(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(AnnotationError, match="lacks the list 'images'"):
        load_annotations(tmp_path / "a.json", tmp_path)
