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
from loco_det.datasets.annotations import load_annotations
from loco_det.datasets.cityscapes import OFFICIAL_IMAGES, annotation_file, prepare_cityscapes, verify_annotations
from pretrain.errors import RunFailedError
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
    """Byte for byte; a bad image found by a worker is told as in one process."""
    prepare_cityscapes(tree, workers=2)
    for split in OFFICIAL_IMAGES:
        assert annotation_file(tree, split).read_bytes() == annotation_file(prepared_cityscapes, split).read_bytes()
    ids_files(tree, "val")[1].write_bytes(b"")
    with pytest.raises(ValueError, match="frankfurt_000001_000019_gtFine_instanceIds.png cannot be decoded"):
        prepare_cityscapes(tree, workers=2)


def test_summary_counts_what_is_there_and_what_is_missing(tree):
    """Objects, group regions, images without objects; what lacks of the official sets; cities of other names."""
    ids_files(tree, "train")[0].with_name("._aachen_000000_000019_gtFine_instanceIds.png").touch()  # macOS leaves these
    image_files(tree, "train")[-1].unlink()
    summary = prepare_cityscapes(tree, workers=1)
    train, val = summary.splits
    truth = [o for f in ids_files(tree, "val") for o in dense_objects(np.asarray(Image.open(f)))]
    assert (train.num_images, val.num_images, val.num_empty) == (4, 5, 1)
    assert val.objects == {name: sum(o["category_id"] == label and not o["iscrowd"] for o in truth)
                           for label, name in LABEL_IDS.items()}
    assert val.num_groups == sum(o["iscrowd"] for o in truth)
    text = "\n".join(summary.lines())
    assert "train: 2,972 of the official 2,975 images are missing (aachen 171 of 174, bochum 96 of 96, " in text
    assert "val: 497 of the official 500" in text
    assert "val: images of cities that this split of Cityscapes does not have: 2 (übungsstadt)" in text
    assert "left out because their images are missing: 1 (übungsstadt/übungsstadt_000001_000000)" in text


def test_the_official_tree_has_no_warnings():
    """2,975 and 500 images in the official cities; one less is told."""
    for split, total in (("train", 2975), ("val", 500)):
        names = {f"{city}/{city}_{i:06d}_000019" for city, count in OFFICIAL_IMAGES[split].items() for i in range(count)}
        assert len(names) == total
        assert cityscapes._differences_from_official(split, names) == []
        (warning,) = cityscapes._differences_from_official(split, names - {min(names)})
        assert warning.startswith(f"1 of the official {total:,} images are missing")


def test_a_split_may_be_missing(tree):
    """The other one is converted, with a warning that counts the missing one."""
    shutil.rmtree(tree / "leftImg8bit" / "train")
    shutil.rmtree(tree / "gtFine" / "train")
    summary = prepare_cityscapes(tree, workers=1)
    assert "train: 2,975 of the official 2,975 images are missing" in "\n".join(summary.lines())
    assert not annotation_file(tree, "train").exists()
    assert annotation_file(tree, "val").exists()


def remove_instance_ids(root):
    ids_files(root, "val")[3].unlink()
    ids_files(root, "val")[1].unlink()


def shrink(file):
    with Image.open(file) as image:
        smaller = image.resize((64, 48), Image.Resampling.NEAREST)
    smaller.save(file)


def truncate(file):
    file.write_bytes(file.read_bytes()[:150])


def save_as(file, mode):
    Image.new(mode, SIZE[::-1]).save(file)


def give_unknown_id(root):
    ids = draw_instance_ids(0)
    ids[5, 5] = 40001
    Image.fromarray(ids).save(ids_files(root, "val")[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove_instance_ids, "2 of 5 images in .*leftImg8bit/val have no instanceIds file, .*frankfurt_000001_000019_gt"),
        (lambda root: shutil.rmtree(root / "gtFine"), "5 of 5 images in .*leftImg8bit/train have no instanceIds file"),
        (lambda root: shutil.rmtree(root / "leftImg8bit"), "holds no image leftImg8bit/.*www.cityscapes-dataset.com"),
        (lambda root: shrink(ids_files(root, "val")[2]), "000002_000019_gtFine_instanceIds.png is 64 x 48 pixels but "
                                                         "its image .*frankfurt_000002_000019_leftImg8bit.png 128 x 96"),
        (lambda root: shrink(image_files(root, "val")[4]), "Ids.png is 128 x 96 pixels but its image .*png 64 x 48"),
        (lambda root: truncate(ids_files(root, "val")[0]), "_gtFine_instanceIds.png cannot be decoded"),
        (lambda root: image_files(root, "val")[0].write_text("<html>"), "_leftImg8bit.png cannot be decoded"),
        (lambda root: save_as(ids_files(root, "val")[0], "L"), "of mode L, not of 16-bit gray values"),
        (lambda root: save_as(ids_files(root, "val")[0], "RGB"), "of mode RGB"),
        (give_unknown_id, "holds the id 40001, which is of no label"),
    ],
)
def test_a_wrong_tree_is_refused(tree, spoil, message):
    """Named, with the mend, and before anything is written."""
    spoil(tree)
    with pytest.raises(ValueError, match=message):
        prepare_cityscapes(tree, workers=1)
    assert not (tree / "annotations").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda annotations: annotations[3].update(area=annotations[3]["area"] + 1), "annotation 4 of .* has a wrong area"),
        (lambda annotations: annotations[3]["bbox"].__setitem__(2, annotations[3]["bbox"][2] + 1), "wrong bbox"),
        (lambda annotations: annotations[3].update(category_id=77), "wrong category_id"),
        (lambda annotations: annotations[3].update(iscrowd=1 - annotations[3]["iscrowd"]), "wrong iscrowd"),
        (lambda annotations: annotations[3].update(segmentation=annotations[4]["segmentation"]), "annotation 4 of .* has a"),
        (lambda annotations: annotations.pop(3), "are in no annotation"),
    ],
)
def test_verification_finds_wrong_files(prepared_cityscapes, tmp_path, spoil, message):
    """Each value is compared with the images."""
    content = json.loads(annotation_file(prepared_cityscapes, "val").read_text())
    spoil(content["annotations"])
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(content))
    with pytest.raises(RunFailedError, match=message):
        verify_annotations(file, prepared_cityscapes / "gtFine" / "val", workers=1)


def test_only_verified_files_have_their_names(tree, monkeypatch):
    """An interrupted verification and one that fails leave nothing behind, and an older file as it was."""
    train, val = (annotation_file(tree, split) for split in ("train", "val"))
    train.parent.mkdir()
    train.write_text("older")
    find_objects = cityscapes.find_objects
    with monkeypatch.context() as patched:
        patched.setattr(cityscapes, "find_objects", lambda ids: [{**o, "area": 1} for o in find_objects(ids)])
        with pytest.raises(RunFailedError, match="annotations are not what .*gtFine/train says of 4 images: .* wrong area"):
            prepare_cityscapes(tree, workers=1)
    assert [file.name for file in train.parent.iterdir()] == [train.name] and train.read_text() == "older"

    def interrupted(file, gt_dir, workers):
        assert json.loads(file.read_text())["images"] and not file.samefile(train) and not val.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cityscapes, "verify_annotations", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_cityscapes(tree, workers=1)
    assert [file.name for file in train.parent.iterdir()] == [train.name] and train.read_text() == "older"
    prepare_cityscapes(tree, workers=1)
    assert sorted(file.name for file in train.parent.iterdir()) == [train.name, val.name]


def test_the_folder_is_tried_before_the_conversion(tree, monkeypatch):
    """Half an hour's work is not thrown away."""
    (tree / "annotations").write_text("a file")
    monkeypatch.setattr(cityscapes, "find_objects", lambda ids: pytest.fail("converted before"))
    with pytest.raises(ValueError, match="cannot write to .*annotations .*choose another place"):
        prepare_cityscapes(tree, workers=1)
