"""The scenes of the synthetic set: what they show, that classes are fair, and how masks are encoded."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from pretrain.data import synthetic_shapes
from pretrain.data.synthetic_scenes import CATEGORIES, VERSION, Instance, Scene, SyntheticConfig, render_scene

STRIPED = [c["id"] for c in CATEGORIES if c["name"].startswith("striped")]
DISCS = [c["id"] for c in CATEGORIES if c["supercategory"] == "disc"]


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


def orientation_coherence(image: np.ndarray, mask: np.ndarray) -> float:
    """0 if gradients inside the mask point everywhere, 1 if they all lie along one line."""
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=0).astype(bool)
    along_y, along_x = (g[inside] for g in np.gradient(image.astype(np.float64).mean(2)))
    xx, yy, xy = (along_x**2).sum(), (along_y**2).sum(), (along_x * along_y).sum()
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy + 1e-9))


def test_pixels_and_masks_are_those_of_this_version() -> None:
    """Any change of the drawing is noticed: a new digest needs a new `VERSION`."""
    digest = hashlib.sha256()
    for index in range(40):
        scene = render_scene(SyntheticConfig(), "val2017", index)
        digest.update(scene.image.tobytes())
        for instance in scene.instances:
            digest.update(bytes([instance.category_id, instance.iscrowd]) + instance.mask.tobytes())
    assert (VERSION, digest.hexdigest()[:16]) == (2, "2f1e317af757b2fd")


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
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        assert sum(not instance.iscrowd for instance in scene.instances) <= 3
        stacked = np.stack([instance.mask for instance in scene.instances])
        assert stacked.dtype == bool and stacked.sum(0).max() == 1, "a pixel shows one instance"
        for instance in scene.instances:
            if instance.look is not None:
                whole = synthetic_shapes.outline_area(instance.look)
                assert 0.5 * whole <= instance.mask.sum() <= 1.5 * whole
                assert 40 <= instance.look.diameter <= 84


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
        assert scene.image.shape == (64, 64, 3)
        (instance,) = scene.instances
        assert 38 <= instance.look.diameter <= 64


def test_colour_tells_nothing(objects: list[tuple[np.ndarray, Instance]]) -> None:
    """Mean and spread of an object's colours leave its class, shape and texture at chance."""
    labels = np.array([instance.category_id for _, instance in objects])
    features = []
    for image, instance in objects:
        pixels = image[instance.mask].astype(np.float64)
        features.append([*pixels.mean(0), *pixels.std(0), pixels.mean(1).std()])
    features = np.array(features)
    # About 480 objects are classified: four standard deviations of chance are 0.08 and 0.09.
    assert nearest_mean_accuracy(features, labels) < 1 / 4 + 0.08
    assert nearest_mean_accuracy(features, np.isin(labels, STRIPED)) < 1 / 2 + 0.09
    assert nearest_mean_accuracy(features, np.isin(labels, DISCS)) < 1 / 2 + 0.09


def test_pattern_and_outline_tell_everything(objects: list[tuple[np.ndarray, Instance]]) -> None:
    """The classes are there: pattern coherence gives the texture, the outline's area the shape.

    This is also the control for the tests above: the same classifier finds what can be found.
    """
    whole = [
        (image, instance)
        for image, instance in objects
        if instance.mask.sum() > 0.97 * synthetic_shapes.outline_area(instance.look)
    ]
    labels = np.array([instance.category_id for _, instance in whole])
    coherence = np.array([[orientation_coherence(image, i.mask)] for image, i in whole])
    assert nearest_mean_accuracy(coherence, np.isin(labels, STRIPED)) > 0.97
    fill = []
    for _, instance in whole:
        points = np.argwhere(instance.mask)[:, None, ::-1].astype(np.int32)
        hull = cv2.contourArea(cv2.convexHull(points))
        _, radius = cv2.minEnclosingCircle(points)
        fill.append([instance.mask.sum() / hull, instance.mask.sum() / radius**2])
    assert nearest_mean_accuracy(np.array(fill), np.isin(labels, DISCS)) > 0.97


def test_textures_have_the_same_values() -> None:
    """Stripes and checks of one look have the same distribution of values before any colouring."""
    quantiles = {}
    for texture in synthetic_shapes.TEXTURES:
        rng = np.random.default_rng(0)
        look = synthetic_shapes.sample_look(rng, "disc", texture, 60.0)
        field = synthetic_shapes.texture_field(rng, look, -100, -100, 200, 200)
        quantiles[texture] = np.quantile(field, np.linspace(0.05, 0.95, 19))
    assert np.abs(quantiles["striped"] - quantiles["checkered"]).max() < 0.06
    assert np.ptp(quantiles["striped"]) > 1.5


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
    assert 0.31 < min(shares) < 0.4 and 0.55 < max(shares) < 0.66
