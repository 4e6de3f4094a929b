"""The scenes of the embedded default: images with the instances in them, rendered from random numbers.

A class is an arrangement: an object has four quarters, striped vertically or horizontally, two of each, and its class says
which are which. It shows in how quarters lie to each other, nowhere within one: stripes, colours and outline have the same
distributions for all classes. Wave length, contrast and colours differ from object to object: they tell images apart, but
not classes. The scenes also hold things that are not objects: stripes of one direction, plain and blotched patches,
objects' outlines among them.

Each image is a pure function of (seed, image_size, split, index): sets of different length share their first images, and
pixels are the same on every machine (see `synthetic_shapes`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from pretrain.data import synthetic_shapes as shapes

VERSION = 3  # raise whenever a change alters a pixel or an annotation: sets of another version are not reused
# folder name -> id of its first image; COCO's ids are unique across splits, so ours are too
SPLITS = {"train2017": 1, "val2017": 1_000_001, "unlabeled2017": 2_000_001}
LABELLED_SPLITS = ("train2017", "val2017")
_MAX_IMAGES = 1_000_000

# ids have gaps, as COCO's have, so that code that takes ids for labels fails here, not on COCO
CATEGORIES = (
    {"id": 1, "name": "vertical_top", "supercategory": "layered"},
    {"id": 2, "name": "vertical_bottom", "supercategory": "layered"},
    {"id": 4, "name": "side_by_side", "supercategory": "mixed"},
    {"id": 7, "name": "woven", "supercategory": "mixed"},
)
# closed under mirroring, as views are mirrored
ARRANGEMENTS: dict[str, tuple[shapes.Arrangement, ...]] = {
    "vertical_top": (("vertical", "vertical", "horizontal", "horizontal"),),
    "vertical_bottom": (("horizontal", "horizontal", "vertical", "vertical"),),
    "side_by_side": (("vertical", "horizontal") * 2, ("horizontal", "vertical") * 2),
    "woven": (("vertical", "horizontal", "horizontal", "vertical"), ("horizontal", "vertical", "vertical", "horizontal")),
}

_CROWD_MEMBER_DIAMETER = (0.1, 0.14)
_MIN_VISIBLE = 0.5  # share of an object's whole outline that must remain visible
_PLACEMENT_TRIES = 12
_RLE_EVERY = 8  # one instance in this many is stored as compressed RLE, so that readers meet every encoding


@dataclass(frozen=True)
class SyntheticConfig:
    """What a synthetic set is made from.

    Attributes:
        num_train: Labelled images for training, 1 to a million.
        num_val: Labelled images for evaluation, 1 to a million.
        num_unlabeled: Images without annotations for pretraining, 0 to a million.
        image_size: Side of the square images in pixels, 64 to 1024. Objects scale with it, the wave length of stripes not.
        seed: Of all randomness, at least 0.

    Raises:
        ValueError: A value is out of range.
    """

    num_train: int = 400
    num_val: int = 100
    num_unlabeled: int = 2000
    image_size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "num_train": (1, _MAX_IMAGES),
            "num_val": (1, _MAX_IMAGES),
            "num_unlabeled": (0, _MAX_IMAGES),
            "image_size": (64, 1024),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name}={value!r}: give an integer from {low} to {high}")

    def count(self, split: str) -> int:
        """Number of images of a split, one of `SPLITS`."""
        return getattr(self, "num_" + split.removesuffix("2017"))


@dataclass(frozen=True)
class _Composition:
    """How full a scene is: bounds of numbers (inclusive) and of diameters (shares of the image side).

    ``side`` is the image's side as a share of the configured one; ``margin`` the least distance of a centre to the border in
    diameters; ``backdrop`` scales the contrast of the background's gradient and noise.
    """

    side: float
    objects: tuple[int, int]
    diameter: tuple[float, float]
    margin: float
    distractors: tuple[int, int]
    occluders: tuple[int, int]
    crowd_probability: float
    backdrop: float


# Labelled scenes hold one to three objects of 31 to 60 of 96 pixels. Unlabelled images are object-centric, as ImageNet is
# to COCO, and smaller, so that stripes keep their scale: two random crops of one have something to agree on.
_SCENE = _Composition(1.0, (1, 3), (0.32, 0.62), 0.3, (0, 2), (0, 1), crowd_probability=0.06, backdrop=0.4)
_OBJECT_CENTRIC = _Composition(0.5, (1, 1), (0.65, 0.95), 0.45, (0, 1), (0, 0), crowd_probability=0.0, backdrop=0.3)


@dataclass(frozen=True)
class Instance:
    """One annotated object, or one crowd of many.

    Attributes:
        category_id: One of the ids in `CATEGORIES`.
        mask: The visible part, bool (size, size).
        iscrowd: Whether this is a crowd region.
        look: How it was drawn; None for a crowd.
    """

    category_id: int
    mask: np.ndarray
    iscrowd: bool
    look: shapes.Look | None


@dataclass(frozen=True)
class Scene:
    """One image, uint8 (size, size, 3) RGB, and its instances from back to front."""

    image: np.ndarray
    instances: list[Instance]


class _Stage:
    """A canvas that knows which pixel shows which instance, and lets none be hidden too far."""

    def __init__(self, canvas: np.ndarray) -> None:
        self.canvas = canvas
        self.size = canvas.shape[0]
        self.owner = np.zeros(canvas.shape[:2], dtype=np.int16)  # 0: none, i: the i-th instance
        self.labels: list[tuple[int, bool, shapes.Look | None]] = []
        self._needed = [0.0]  # visible pixels that each owner must keep

    def put(self, rng: np.random.Generator, parts: list[shapes.Part], category: int | None) -> bool:
        """Paints a thing of one or more parts in front of all others; an occluder has no category.

        Returns:
            Whether it was painted: not if too little of it or of another instance would be visible.
        """
        alphas = [shapes.coverage(look, centre, self.size) for look, centre in parts]
        mask = np.maximum.reduce(alphas) >= 128
        needed = _MIN_VISIBLE * sum(shapes.outline_area(look) for look, _ in parts)
        if category is not None and mask.sum() < needed:
            return False
        visible = np.bincount(self.owner[~mask], minlength=len(self._needed))
        if np.any(visible[1:] < self._needed[1:]):
            return False
        for (look, centre), alpha in zip(parts, alphas, strict=True):
            shapes.paint(rng, self.canvas, look, centre, alpha)
        if category is None:
            self.owner[mask] = 0
            return True
        is_crowd = len(parts) > 1
        self.labels.append((category, is_crowd, None if is_crowd else parts[0][0]))
        self._needed.append(needed)
        self.owner[mask] = len(self.labels)
        return True

    def instances(self) -> list[Instance]:
        return [Instance(category_id, self.owner == index, is_crowd, look)
                for index, (category_id, is_crowd, look) in enumerate(self.labels, start=1)]


def render_scene(config: SyntheticConfig, split: str, index: int) -> Scene:
    """Draws one image of the set.

    Args:
        config: Only `seed` and `image_size` matter here.
        split: One of `SPLITS`.
        index: Of the image in its split, from 0; may exceed the configured number of images.

    Returns:
        The scene. Everything painted that is an object is an instance, at least half of its outline visible and inside the
        image; the rare scene in which nothing found a place has none.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(split.encode()), index])
    composition = _SCENE if split in LABELLED_SPLITS else _OBJECT_CENTRIC
    size = round(config.image_size * composition.side)
    stage = _Stage(shapes.background(rng, size, composition.distractors, composition.backdrop))
    for kind in _foreground_plan(rng, composition):
        looks, category_id = _choose(rng, kind, size, composition.diameter)
        # Only the place is drawn again after a refusal: a new class would favour small shapes.
        for _ in range(_PLACEMENT_TRIES):
            if stage.put(rng, shapes.arrange(rng, looks, size, composition.margin), category_id):
                break
    return Scene(shapes.finish(rng, stage.canvas), stage.instances())


def _foreground_plan(rng: np.random.Generator, composition: _Composition) -> list[str]:
    """Kinds to place, from back to front: objects, occluders, at times a crowd."""
    plan = ["object"] * int(rng.integers(*composition.objects, endpoint=True))
    plan += ["occluder"] * int(rng.integers(*composition.occluders, endpoint=True))
    if rng.random() < composition.crowd_probability:
        plan.append("crowd")
    return [plan[index] for index in rng.permutation(len(plan))]


def _choose(
    rng: np.random.Generator, kind: str, size: int, object_diameter: tuple[float, float]
) -> tuple[list[shapes.Look], int | None]:
    """Draws the looks of a thing's parts and its category (None: occluder)."""
    if kind == "occluder":
        outline, surface = shapes.pick(rng, ("bar", "irregular")), shapes.pick(rng, ("plain", "blotched"))
        share = shapes.uniform(rng, *((0.4, 0.8) if outline == "bar" else (0.12, 0.35)))
        return [shapes.sample_look(rng, outline, surface, size * share)], None
    category = shapes.pick(rng, CATEGORIES)
    if kind == "object":
        diameter, count = size * shapes.log_uniform(rng, *object_diameter), 1
    else:
        diameter, count = size * shapes.uniform(rng, *_CROWD_MEMBER_DIAMETER), rng.integers(9, 18)
    surfaces = [shapes.pick(rng, ARRANGEMENTS[category["name"]]) for _ in range(count)]
    return [shapes.sample_look(rng, "round", surface, diameter) for surface in surfaces], category["id"]


def coco_annotations(scene: Scene, image_id: int) -> list[dict]:
    """Encodes the instances of a scene as COCO annotations of image `image_id`.

    Crowds and masks with holes become uncompressed RLE, every eighth other instance compressed RLE, the rest polygons. Area
    and box (x, y, width, height) are those of the visible mask, in pixels.
    """
    annotations = []
    for number, instance in enumerate(scene.instances, start=1):
        mask = instance.mask
        segmentation = None if instance.iscrowd else shapes.mask_polygons(mask)
        if segmentation is None:
            segmentation = shapes.mask_rle(mask)
        elif (image_id + number) % _RLE_EVERY == 0:
            segmentation = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            segmentation["counts"] = segmentation["counts"].decode()
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        width, height = int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
        annotations.append({
            "id": image_id * 100 + number,
            "image_id": image_id,
            "category_id": instance.category_id,
            "segmentation": segmentation,
            "area": float(mask.sum()),
            "bbox": [float(left), float(top), float(width), float(height)],
            "iscrowd": int(instance.iscrowd),
        })
    return annotations
