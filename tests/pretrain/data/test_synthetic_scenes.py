"""The scenes of the synthetic set: what they show, that classes are fair, and how masks are encoded."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pretrain.data import synthetic_shapes
from pretrain.data.synthetic_scenes import ARRANGEMENTS, CATEGORIES, VERSION, Instance, Scene, SyntheticConfig, render_scene

LAYERED = [c["id"] for c in CATEGORIES if c["supercategory"] == "layered"]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(SyntheticConfig(), "train2017", index) for index in range(500)]


@pytest.fixture(scope="module")
def objects(scenes: list[Scene]) -> list[tuple[np.ndarray, Instance]]:
    """Every object that is no crowd, with its image."""
    return [(s.image, i) for s in scenes for i in s.instances if not i.iscrowd]


def nearest_mean_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy on the second half of a nearest-class-mean classifier fitted on the first half."""
    features = (features - features.mean(0)) / features.std(0)
    half = len(labels) // 2
    classes = np.unique(labels)
    means = np.stack([features[:half][labels[:half] == name].mean(0) for name in classes])
    distances = ((features[half:, None] - means) ** 2).sum(-1)
    return float((classes[distances.argmin(1)] == labels[half:]).mean())


def stripe_directions(image: np.ndarray, instance: Instance) -> np.ndarray:
    """In each quarter of an object's box, from vertical stripes alone (1) to horizontal ones alone (-1): ``(2, 2)``."""
    rows, columns = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
    box = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64).mean(2)
    inside = cv2.erode(instance.mask.astype(np.uint8), np.ones((3, 3)), borderValue=0).astype(bool)
    inside = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    down, across = (gradient**2 * inside for gradient in np.gradient(box))
    halves = [slice(0, box.shape[0] // 2), slice(box.shape[0] // 2, None)]
    sides = [slice(0, box.shape[1] // 2), slice(box.shape[1] // 2, None)]
    energies = np.array([[(across[h, s].sum(), down[h, s].sum()) for s in sides] for h in halves])  # (2, 2, 2)
    return (energies[..., 0] - energies[..., 1]) / (energies.sum(-1) + 1e-9)


def test_pixels_and_masks_are_those_of_this_version() -> None:
    """Any change of the drawing is noticed: a new digest needs a new `VERSION`."""
    digest = hashlib.sha256()
    for index in range(40):
        scene = render_scene(SyntheticConfig(), "val2017", index)
        digest.update(scene.image.tobytes())
        for instance in scene.instances:
            digest.update(bytes([instance.category_id, instance.iscrowd]) + instance.mask.tobytes())
    assert (VERSION, digest.hexdigest()[:16]) == (3, "c2115ca6bd8863ba")


def test_scene_depends_on_seed_split_and_index_alone() -> None:
    """The numbers of images do not matter; each of seed, split and index does."""
    base = render_scene(SyntheticConfig(), "train2017", 3).image
    fewer = SyntheticConfig(num_train=1, num_val=1, num_unlabeled=0)
    assert np.array_equal(base, render_scene(fewer, "train2017", 3).image)
    assert not np.array_equal(base, render_scene(SyntheticConfig(seed=1), "train2017", 3).image)
    assert not np.array_equal(base, render_scene(SyntheticConfig(), "train2017", 4).image)
    assert not np.array_equal(base, render_scene(SyntheticConfig(), "val2017", 3).image)


def test_scenes_keep_their_promises(scenes: list[Scene]) -> None:
    """Format, number, disjoint masks, visibility and sizes are as documented."""
    for scene in scenes:
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert sum(not instance.iscrowd for instance in scene.instances) <= 3
        stacked = np.stack([instance.mask for instance in scene.instances])
        assert stacked.dtype == bool and stacked.sum(0).max() == 1, "a pixel shows one instance"
        for instance in scene.instances:
            if instance.look is not None:
                whole = synthetic_shapes.outline_area(instance.look)
                assert 0.5 * whole <= instance.mask.sum() <= 1.5 * whole
                assert 30 <= instance.look.diameter <= 60


def test_scenes_are_varied(scenes: list[Scene], objects: list[tuple[np.ndarray, Instance]]) -> None:
    """Classes are balanced, there are small and medium objects, occlusion, holes and crowds."""
    labels = np.array([instance.category_id for _, instance in objects])
    shares = np.array([(labels == category["id"]).mean() for category in CATEGORIES])
    assert shares.sum() == pytest.approx(1) and shares.min() > 0.2 and shares.max() < 0.3
    areas = np.array([instance.mask.sum() for _, instance in objects])
    assert 0.2 < (areas > 32**2).mean() < 0.8
    counts = {len(scene.instances) for scene in scenes}
    assert {1, 2, 3, 4} <= counts  # three objects and a crowd
    polygons = [synthetic_shapes.mask_polygons(instance.mask) for _, instance in objects]
    assert any(parts is None for parts in polygons), "no hole in any mask"
    assert any(parts is not None and len(parts) > 1 for parts in polygons), "none split in parts"
    assert 0.02 < np.mean([any(i.iscrowd for i in scene.instances) for scene in scenes]) < 0.12


def test_unlabelled_images_are_object_centric() -> None:
    """One object that fills most of an image of half the side, on a quiet background: an ImageNet to the scenes' COCO."""
    for index in range(20):
        scene = render_scene(SyntheticConfig(), "unlabeled2017", index)
        assert scene.image.shape == (48, 48, 3)
        (instance,) = scene.instances
        assert 31 <= instance.look.diameter <= 46


def test_colour_and_outline_do_not_tell_classes_apart(objects: list[tuple[np.ndarray, Instance]]) -> None:
    """Mean and spread of an object's colours, its area and how much of its hull and circle it fills stay at chance."""
    labels = np.array([instance.category_id for _, instance in objects])
    features = []
    for image, instance in objects:
        pixels = image[instance.mask].astype(np.float64)
        points = np.argwhere(instance.mask)[:, None, ::-1].astype(np.int32)
        area, (_, radius) = instance.mask.sum(), cv2.minEnclosingCircle(points)
        outline = [area, area / cv2.contourArea(cv2.convexHull(points)), area / radius**2]
        features.append([*pixels.mean(0), *pixels.std(0), pixels.mean(1).std(), *outline])
    # About 480 objects are classified: four standard deviations of chance are 0.08 and 0.09.
    assert nearest_mean_accuracy(np.array(features), labels) < 1 / 4 + 0.08
    assert nearest_mean_accuracy(np.array(features), np.isin(labels, LAYERED)) < 1 / 2 + 0.09


def test_the_arrangement_is_the_class(objects: list[tuple[np.ndarray, Instance]]) -> None:
    """The directions of stripes tell classes apart only by where they are.

    By quarters, up to the mirror image, they give the class; over the whole object there are equally many of both, but for
    the seams between quarters.
    """
    whole = [(image, instance) for image, instance in objects
             if instance.mask.sum() > 0.97 * synthetic_shapes.outline_area(instance.look)]
    labels = np.array([instance.category_id for _, instance in whole])
    directions = np.array([stripe_directions(image, instance) for image, instance in whole])  # (objects, 2, 2)
    top_to_bottom = directions.mean(2) @ [1, -1]
    side_to_side = np.abs(directions.mean(1) @ [1, -1])
    diagonal = np.abs(directions[:, 0] @ [1, -1] - directions[:, 1] @ [1, -1])
    assert nearest_mean_accuracy(np.stack([top_to_bottom, side_to_side, diagonal], 1), labels) > 0.97
    assert nearest_mean_accuracy(directions.mean((1, 2))[:, None], labels) < 0.5


def test_arrangements_are_closed_under_mirroring() -> None:
    """Views are mirrored, which must not change a class; no arrangement is of two classes."""
    seen = [arrangement for each in ARRANGEMENTS.values() for arrangement in each]
    assert len(set(seen)) == len(seen)
    for arrangements in ARRANGEMENTS.values():
        assert {(b, a, d, c) for a, b, c, d in arrangements} == set(arrangements)
        assert all(sorted(arrangement) == ["horizontal"] * 2 + ["vertical"] * 2 for arrangement in arrangements)


@pytest.mark.parametrize("case", ["pixel", "line", "parts", "diagonal", "border", "noise"])
def test_any_mask_survives_encoding(case: str) -> None:
    """Encodings are exact, polygons unshifted, on masks that are no blobs; holes are refused."""
    mask = np.zeros((11, 14), dtype=bool)
    if case == "pixel":
        mask[0, 0] = True
    elif case == "line":
        mask[4, 2:9] = True
    elif case == "parts":
        mask[1:4, 1:4] = mask[6:9, 8:13] = True
    elif case == "diagonal":
        mask[np.arange(9), np.arange(9)] = True
    elif case == "border":
        mask[:] = True
    else:
        mask = np.random.default_rng(0).random(mask.shape) < 0.5
    height, width = mask.shape
    coco = COCO()
    coco.imgs = {1: {"height": height, "width": width}}
    rle = {"image_id": 1, "segmentation": synthetic_shapes.mask_rle(mask)}
    assert np.array_equal(coco.annToMask(rle), mask)
    polygons = synthetic_shapes.mask_polygons(mask)
    if case == "noise":
        assert polygons is None
        return
    assert len(polygons) == (2 if case == "parts" else 1)
    assert np.array_equal(coco.annToMask({"image_id": 1, "segmentation": polygons}), mask)
    corners = np.concatenate(polygons).reshape(-1, 2)
    occupied = np.argwhere(mask)[:, ::-1]
    centre = (occupied.min(0) + occupied.max(0) + 1) / 2
    assert np.array_equal((corners.min(0) + corners.max(0)) / 2, centre), "polygons are shifted"


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_train", 0), ("num_unlabeled", -1), ("image_size", 32), ("seed", -1), ("num_train", 1.5)],
)
def test_bad_configuration_is_refused(name: str, value: float) -> None:
    """Each field's range is checked, and the error names field, value and range."""
    with pytest.raises(ValueError, match=f"{name}={value}.*give an integer from"):
        SyntheticConfig(**{name: value})


@pytest.mark.parametrize("size", [64, 200])
def test_other_sizes_scale_the_objects(size: int) -> None:
    """Objects keep their share of the image side."""
    scenes = [render_scene(SyntheticConfig(image_size=size), "val2017", i) for i in range(20)]
    shares = [i.look.diameter / size for s in scenes for i in s.instances if i.look is not None]
    assert scenes[0].image.shape == (size, size, 3)
    assert 0.31 < min(shares) < 0.4 and 0.5 < max(shares) < 0.63
