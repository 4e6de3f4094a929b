"""Cityscapes in COCO's format against a dense computation and mmdet's own converter, and every way a tree can be wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

import loco_det.register  # noqa: F401  isort: skip
import mmdet
from mmdet.datasets import CityscapesDataset

from loco_det.datasets import cityscapes
from loco_det.datasets.cityscapes import OFFICIAL_IMAGES, annotation_file, check_cityscapes, prepare_cityscapes
from loco_det.datasets.coco import load_annotations
from tests.loco_det.datasets.cityscapes_tree import LABEL_IDS, SIZE, draw_instance_ids, ids_files, image_files, make_tree


@pytest.fixture(scope="module")
def prepared_cityscapes(tmp_path_factory) -> Path:
    """Tests must not change it."""
    return make_tree(tmp_path_factory.mktemp("cityscapes"))


@pytest.fixture
def tree(prepared_cityscapes, tmp_path) -> Path:
    """A copy to spoil, not converted yet."""
    root = shutil.copytree(prepared_cityscapes, tmp_path / "cityscapes")
    shutil.rmtree(root / "annotations")
    return root


def dense_objects(ids: np.ndarray) -> list[dict]:
    """What a file should say of an image: one mask after the other."""
    objects = []
    for value in np.unique(ids):
        label = int(value) // 1000 if value >= 1000 else int(value)
        if label in LABEL_IDS:
            mask = ids == value
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            rle = rle_codec.encode(np.asfortranarray(mask, np.uint8))
            objects.append(dict(iscrowd=int(value < 1000), category_id=label, bbox=[float(x) for x in box],
                                area=int(mask.sum()), segmentation=dict(rle, counts=rle["counts"].decode())))
    return objects


@pytest.mark.parametrize("split", ["train", "val"])
def test_conversion_equals_a_dense_computation(prepared_cityscapes, split):
    """Every key of every object in every image; images by name, ids from 1, the categories in mmdet's order."""
    content = json.loads(annotation_file(prepared_cityscapes, split).read_text())
    files = image_files(prepared_cityscapes, split)
    assert [image["file_name"] for image in content["images"]] == [f"{f.parent.name}/{f.name}" for f in files]
    assert all((image["height"], image["width"]) == SIZE for image in content["images"])
    assert [image["id"] for image in content["images"]] == list(range(1, len(files) + 1))
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    assert {category["id"]: category["name"] for category in content["categories"]} == LABEL_IDS
    for image, file in zip(content["images"], ids_files(prepared_cityscapes, split), strict=True):
        found = [dict(a) for a in content["annotations"] if a["image_id"] == image["id"]]
        for annotation in found:
            del annotation["id"], annotation["image_id"]
        assert found == dense_objects(np.asarray(Image.open(file)))
    groups = [a for a in content["annotations"] if a["iscrowd"]]
    assert groups
    assert len(groups) < len(content["annotations"]) / 2


def test_conversion_equals_mmdets_own(prepared_cityscapes):
    """But for the order of images, which it takes from the file system, and ids, which it counts from 0."""
    file = Path(mmdet.__file__).parent / ".mim/tools/dataset_converters/cityscapes.py"
    if not file.exists():
        pytest.skip("this mmdet was installed without its tools")
    spec = importlib.util.spec_from_file_location("mmdets_converter", file)
    converter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(converter)
    files = converter.collect_files(*(str(prepared_cityscapes / folder / "val") for folder in ("leftImg8bit", "gtFine")))
    content = json.loads(annotation_file(prepared_cityscapes, "val").read_text())
    for info in map(converter.load_img_info, files):
        image = next(image for image in content["images"] if image["file_name"] == info["file_name"])
        ours = [{k: v for k, v in a.items() if k not in ("id", "image_id")}
                for a in content["annotations"] if a["image_id"] == image["id"]]
        assert ours == json.loads(json.dumps(info.pop("anno_info"), default=int))
        assert {key: value for key, value in image.items() if key != "id"} == info


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 300)])
def test_masks_at_every_border(shape):
    """Objects of one pixel, in the first and last row and column, and one that fills the image."""
    full = np.full(shape, 26001, np.uint16)
    corners = np.full(shape, 7, np.uint16)
    corners[0, 0], corners[-1, -1] = 24001, 33002
    stripes = (np.arange(full.size).reshape(shape) % 2 * 1000 + 25000).astype(np.uint16)
    for ids in (full, corners, stripes):
        assert cityscapes.find_objects(ids) == dense_objects(ids)


def test_mmdets_dataset_loads_it(prepared_cityscapes):
    """All images in evaluation, in training those with an object; group regions are ignored, not learned."""
    for test_mode, expected in ((True, 5), (False, 4)):
        dataset = CityscapesDataset(
            ann_file=str(annotation_file(prepared_cityscapes, "train")), test_mode=test_mode, pipeline=[],
            data_prefix=dict(img=str(prepared_cityscapes / "leftImg8bit" / "train")), filter_cfg=dict(filter_empty_gt=True))
        assert len(dataset) == expected
    assert dataset.cat_ids == list(LABEL_IDS)
    objects = [o for i in range(len(dataset)) for o in dataset.get_data_info(i)["instances"]]
    expected = [o for f in ids_files(prepared_cityscapes, "train") for o in dense_objects(np.asarray(Image.open(f)))]
    assert len(objects) == len(expected)
    assert sum(o["ignore_flag"] for o in objects) == sum(o["iscrowd"] for o in expected)
    assert Path(dataset.get_data_info(0)["img_path"]).is_file()


def test_it_passes_the_check_before_training(prepared_cityscapes):
    """Non-ASCII names included."""
    content = load_annotations(annotation_file(prepared_cityscapes, "val"), prepared_cityscapes / "leftImg8bit" / "val")
    assert any("übungsstadt" in image["file_name"] for image in content["images"])


@pytest.mark.slow
def test_parallel_equals_serial(prepared_cityscapes, tree):
    """Byte for byte; a bad image found by a worker is reported as in one process."""
    prepare_cityscapes(tree, workers=2)
    for split in OFFICIAL_IMAGES:
        assert annotation_file(tree, split).read_bytes() == annotation_file(prepared_cityscapes, split).read_bytes()
    ids_files(tree, "val")[1].write_bytes(b"")
    with pytest.raises(ValueError, match="frankfurt_000001_000019_gtFine_instanceIds.png cannot be decoded"):
        prepare_cityscapes(tree, workers=2)


def test_summary_and_what_is_missing(tree, capsys):
    """Objects, group regions, images without objects; how many images the official set has. A split may be missing."""
    ids_files(tree, "train")[0].with_name("._aachen_000000_000019_gtFine_instanceIds.png").touch()  # macOS leaves these
    shutil.rmtree(tree / "leftImg8bit" / "train")
    assert prepare_cityscapes(tree, workers=1) == [annotation_file(tree, "val")]
    truth = [o for f in ids_files(tree, "val") for o in dense_objects(np.asarray(Image.open(f)))]
    said = capsys.readouterr().err
    assert "val: 5 images (1 without objects)" in said
    assert f"car {sum(o['category_id'] == 26 and not o['iscrowd'] for o in truth)}" in said
    assert f"{sum(o['iscrowd'] for o in truth)} group regions" in said
    assert "train has 0 images, the official set 2,975" in said and "val has 5 images, the official set 500" in said


def shrink(file):
    with Image.open(file) as image:
        smaller = image.resize((64, 48), Image.Resampling.NEAREST)
    smaller.save(file)


def give_unknown_id(root):
    ids = draw_instance_ids(0)
    ids[5, 5] = 40001
    Image.fromarray(ids).save(ids_files(root, "val")[0])


SPOILT = pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda root: [file.unlink() for file in ids_files(root, "val")[1:3]], "frankfurt_000001_000019_gt"),
        (lambda root: shrink(ids_files(root, "val")[2]), "64 x 48"),
        (lambda root: shrink(image_files(root, "val")[4]), "64 x 48"),
        (lambda root: ids_files(root, "val")[0].write_bytes(ids_files(root, "val")[0].read_bytes()[:150]), "instanceIds"),
        (lambda root: image_files(root, "val")[0].write_text("<html>"), "leftImg8bit.png"),
        (lambda root: Image.new("RGB", SIZE[::-1]).save(ids_files(root, "val")[0]), "mode RGB"),
        (give_unknown_id, "40001"),
    ],
)


@SPOILT
def test_a_wrong_tree_is_refused(tree, spoil, found):
    """With the file, and before anything is written."""
    spoil(tree)
    with pytest.raises(ValueError, match=found):
        prepare_cityscapes(tree, workers=1)
    assert not (tree / "annotations").exists()


@pytest.mark.parametrize(("folder", "found"), [("gtFine", "5 of 5 images"), ("leftImg8bit", "www.cityscapes-dataset.com")])
def test_missing_folders_are_refused(tree, folder, found):
    """Ground truth without images is nothing to convert, and images without ground truth cannot be."""
    shutil.rmtree(tree / folder)
    with pytest.raises(ValueError, match=found):
        prepare_cityscapes(tree, workers=1)


def test_the_folder_is_tried_before_the_conversion(tree, monkeypatch):
    """Half an hour's work is not thrown away."""
    (tree / "annotations").write_text("a file")
    monkeypatch.setattr(cityscapes, "find_objects", lambda ids: pytest.fail("converted before"))
    with pytest.raises(ValueError, match="cannot write to .*annotations"):
        prepare_cityscapes(tree, workers=1)


def test_check_of_a_good_tree(prepared_cityscapes):
    """Usable; the official numbers are mentioned."""
    check = check_cityscapes(prepared_cityscapes, workers=1)
    assert check.is_usable and not check.issues.plain()
    assert [file.counts["images"] for file in check.files] == [5, 5]
    assert all(any("official" in issue.kind for issue in file.issues) for file in check.files)


@SPOILT
def test_check_of_a_spoilt_tree(prepared_cityscapes, tmp_path, spoil, found):
    """Whatever became of an instanceIds file."""
    root = shutil.copytree(prepared_cityscapes, tmp_path / "cityscapes")
    spoil(root)
    check = check_cityscapes(root, workers=1)
    assert not check.is_usable
    assert found in " ".join(check.lines())


def test_check_of_annotations_that_are_not_of_the_tree(prepared_cityscapes, tmp_path):
    """Images that came later, missing annotations, and categories that the official evaluation refuses after training."""
    root = shutil.copytree(prepared_cityscapes, tmp_path / "cityscapes")
    for file in (image_files(root, "val")[0], ids_files(root, "val")[0]):
        shutil.copy(file, file.with_name(file.name.replace("000000", "000009")))
    annotation_file(root, "train").unlink()
    content = json.loads(annotation_file(root, "val").read_text())
    content["categories"][0]["name"] = "pedestrian"
    annotation_file(root, "val").write_text(json.dumps(content))
    check = check_cityscapes(root, workers=1)
    [missing] = check.issues
    assert missing.first == [str(annotation_file(root, "train"))]
    found = {issue.kind: issue.first for issue in check.files[0].issues}
    assert found["images that the annotation file does not list"] == ["frankfurt/frankfurt_000009_000019_leftImg8bit.png"]
    assert found["categories that are not among Cityscapes' 8 classes"] == ["pedestrian"]
