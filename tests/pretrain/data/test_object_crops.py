"""Objects cut out of COCO-format sets: pixels, which objects, labels, wrong input, and their use by evaluations."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pretrain.data import object_crops
from pretrain.data.decoding import CorruptImageError
from pretrain.data.sources import build_source, default_splits
from pretrain.eval.data import load_labelled_data

CATEGORIES = [{"id": 9, "name": "zebra"}, {"id": 3, "name": "ant"}]


def make_set(root, boxes, size=(40, 30), split="train", **annotation):
    """A set of one image of noise per list of ``(category id, box)``; returns the images' pixels."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"{split}2017").mkdir()
    pixels = [rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) for _ in boxes]
    images = [dict(id=i, file_name=f"{i}.png", width=size[0], height=size[1]) for i in range(len(boxes))]
    for image, values in zip(images, pixels, strict=True):
        Image.fromarray(values).save(root / f"{split}2017" / image["file_name"])
    objects = [dict(image_id=i, category_id=category, bbox=box, **annotation)
               for i, of_image in enumerate(boxes) for category, box in of_image]
    annotations = [dict(object_, id=number) for number, object_ in enumerate(objects)]
    content = dict(images=images, annotations=annotations[::-1], categories=CATEGORIES)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return pixels


def test_crops_of_the_synthetic_set_are_the_boxes_of_its_objects(synthetic_root):
    """Every object that is not a crowd region appears once: pixels as PIL crops them, class as its category is called."""
    source = build_source(dict(type="coco_objects", min_side=0), synthetic_root, "val")
    content = json.loads((synthetic_root / "annotations/instances_val2017.json").read_text())
    files = {image["id"]: synthetic_root / "val2017" / image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    expected = Counter()
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            x, y, width, height = map(round, annotation["bbox"])
            crop = Image.open(files[annotation["image_id"]]).convert("RGB").crop((x, y, x + width, y + height))
            expected[names[annotation["category_id"]], crop.size, crop.tobytes()] += 1
    crops = [source.load(index) for index in range(len(source))]
    found = Counter((source.classes[label], crop.size, crop.tobytes())
                    for label, crop in zip(source.labels, crops, strict=True))
    assert found == expected and len(source) > 5
    assert source.classes == tuple(sorted(names.values()))


def test_margin_and_border(tmp_path):
    """Fractions of pixels are taken whole, the margin is a share of each side of the box, and the image's border cuts."""
    [pixels] = make_set(tmp_path, [[(9, [2.5, 10, 20, 8]), (3, [30, 20, 99, 99])]])
    source = build_source(dict(type="coco_objects", margin=0.25), tmp_path)
    np.testing.assert_array_equal(np.asarray(source.load(0)), pixels[8:20, 0:28])
    np.testing.assert_array_equal(np.asarray(source.load(1)), pixels[0:30, 5:40])
    assert [source.classes[label] for label in source.labels] == ["zebra", "ant"]


def test_small_boxes_are_left_out(tmp_path):
    """``min_side`` counts neither the margin nor what lies outside; crowds are never taken."""
    make_set(tmp_path, [[(9, [35, 5, 20, 20]), (3, [5, 5, 6, 6]), (3, [5, 5, 5, 20])]])
    source = build_source(dict(type="coco_objects", margin=1, min_side=6), tmp_path)
    assert len(source) == 1 and source.name(0).endswith("train2017/0.png object 1")
    make_set(tmp_path, [[(9, [5, 5, 20, 20])]], split="val", iscrowd=1)
    with pytest.raises(ValueError, match=r"instances_val2017.json has no object .* choose a smaller min_side"):
        build_source("coco_objects", tmp_path, "val")


def test_reading_in_order_decodes_every_image_once(tmp_path, monkeypatch):
    """Objects of an image follow each other whatever the file's order, and a worker's copy holds no decoded image."""
    make_set(tmp_path, [[(9, [0, 0, 10, 10]), (3, [9, 9, 10, 10])], [(3, [5, 5, 20, 20]), (9, [1, 1, 8, 8])]])
    decoded = []
    original = object_crops.decode_image
    monkeypatch.setattr(object_crops, "decode_image", lambda path: decoded.append(path.name) or original(path))
    source = build_source("coco_objects", tmp_path)
    crops = [source.load(index).tobytes() for index in range(len(source))]
    assert decoded == ["0.png", "1.png"]
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 2000
    assert [copy.load(index).tobytes() for index in reversed(range(4))] == crops[::-1]


def test_other_layouts_by_options(tmp_path):
    """File and folder are named by options, in which "{split}" stands for the split."""
    make_set(tmp_path, [[(9, [0, 0, 10, 10])]])
    (tmp_path / "annotations/instances_train2017.json").rename(tmp_path / "test-labels.json")
    (tmp_path / "train2017").rename(tmp_path / "img")
    source = build_source(dict(type="coco_objects", annotations="{split}-labels.json", images="img"), tmp_path, "test")
    assert source.load(0).size == (10, 10)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other size"])
def test_images_that_cannot_be_used_are_corrupt(tmp_path, damage):
    """They are reported as any source's corrupt images are, by name."""
    make_set(tmp_path, [[(9, [0, 0, 10, 10])]])
    file = tmp_path / "train2017/0.png"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    else:
        Image.new("RGB", (30, 40)).save(file)
    source = build_source("coco_objects", tmp_path)
    with pytest.raises(CorruptImageError, match=str(file)):
        source.load(0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"][0].update(category_id=4), "KeyError: 4"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3]), "not enough values"),
        (lambda content: content["images"][0].pop("width"), "'width'"),
        (lambda content: content.update(categories=CATEGORIES[:1] * 2), "zebra, zebra"),
    ],
)
def test_broken_annotations_are_named(tmp_path, change, message):
    """What is wrong is reported with the file."""
    make_set(tmp_path, [[(9, [0, 0, 10, 10])]])
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"instances_train2017.json cannot be used .*{message}"):
        build_source("coco_objects", tmp_path)


def test_bad_input(tmp_path):
    """Missing files and options out of range."""
    with pytest.raises(ValueError, match=r"instances_train2017.json .* does not exist"):
        build_source("coco_objects", tmp_path)
    make_set(tmp_path, [[(9, [0, 0, 10, 10])]])
    for option, message in ((dict(images="none"), "none does not exist"), (dict(margin=-0.1), "margin is -0.1")):
        with pytest.raises(ValueError, match=message):
            build_source(dict(type="coco_objects", **option), tmp_path)


def test_evaluations_train_and_test_on_objects(synthetic_root):
    """The default splits are COCO's, their classes agree, and other choices of objects have other fingerprints."""
    assert default_splits("coco_objects", synthetic_root) == ("train", "val")
    data = load_labelled_data("coco_objects", synthetic_root)
    assert data.record["train_images"] > data.record["test_images"] > 5
    assert data.record["source"] == "coco_objects" and data.record["classes"] == 4
    fewer = load_labelled_data(dict(type="coco_objects", min_side=45), synthetic_root)
    assert fewer.record["train_images"] < data.record["train_images"]
    assert fewer.record["fingerprint"] != data.record["fingerprint"]
