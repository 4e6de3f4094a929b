"""Segmentations: what is accepted is read by mmdet and pycocotools as the mask that it describes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from loco_det.datasets.annotations import category_names, load_annotations
from loco_det.datasets.segmentations import compressed_pixel_count, polygons_leave_image

HEIGHT, WIDTH = 40, 50


def run_lengths(mask):
    """Lengths of the runs of a ``(H, W)`` mask down its columns, beginning with background."""
    runs, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


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


def test_leaving_the_image_is_told_by_axis():
    """45 is within the width of 50 and beyond the height of 40."""
    inside = [[0, 0, 45, 0, 45, 38]]
    assert not polygons_leave_image(inside, HEIGHT, WIDTH, tolerance=1)
    assert not polygons_leave_image([[0, 0, 51, 0, 45, 41]], HEIGHT, WIDTH, tolerance=1)
    for polygon in ([0, 0, 38, 45, 38, 0], [0, 0, 52, 0, 45, 38], [0, -2, 45, 0, 45, 38]):
        assert polygons_leave_image([*inside, polygon], HEIGHT, WIDTH, tolerance=1)


@pytest.mark.slow
def test_mmdet_and_pycocotools_read_what_is_accepted_as_it_is_meant(tmp_path):
    """Masks by polygon and both run lengths, class labels over gaps and out of order, crowds ignored, boxes of no area left
    out, in an image with non-ASCII letters given by its absolute path."""
    import loco_det.register  # noqa: F401
    from loco_det.datasets.coco import CocoInstances

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
    for (mask, _), read, annotation in zip(encodings, sample["gt_masks"].masks, content["annotations"][:3], strict=True):
        np.testing.assert_array_equal(read, mask)
        np.testing.assert_array_equal(truth.annToMask(annotation), mask)
