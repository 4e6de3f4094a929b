"""Annotation files: checked before training, subset and merged without loss."""

from __future__ import annotations

import json

import pytest

from loco_det.datasets.annotations import AnnotationError, category_names, derive, load_annotations


@pytest.fixture
def coco(tmp_path):
    """Three images, three categories in two supercategories, ids with gaps; returns (content, write)."""
    images = [dict(id=i, file_name=f"{i}.jpg", width=10, height=10) for i in (5, 7, 11)]
    common = dict(bbox=[0, 0, 2, 2], area=4, segmentation=[[0, 0, 2, 0, 2, 2]], iscrowd=0)
    placed = enumerate([(5, 1), (5, 4), (7, 9), (11, 4)])
    annotations = [dict(id=k, image_id=i, category_id=c, **common) for k, (i, c) in placed]
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
    assert [a["id"] for a in subset["annotations"]] == [0, 1, 3]
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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c.pop("categories"), "lacks the list 'categories'"),
        (lambda c: c["annotations"][2].pop("segmentation"), "entry 2 of 'annotations' lacks the key 'segmentation'"),
        (lambda c: c["images"].clear() or c["annotations"].clear(), "has no images"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 0 has image_id 99"),
        (lambda c: c["annotations"][1].update(category_id=2), "annotation 1 has category_id 2"),
        (lambda c: c["images"][1].update(file_name="gone.jpg"), r"1 of 3 images of .*ann.json are not in .*gone.jpg"),
    ],
)
def test_broken_files_are_named(coco, spoil, message):
    """File, entry and key."""
    content, load = coco
    spoil(content)
    with pytest.raises(AnnotationError, match=message):
        load()


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
