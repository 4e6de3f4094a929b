"""A small tree in Cityscapes' layout, drawn by the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from loco_det.datasets.cityscapes import prepare_cityscapes

LABEL_IDS = {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}
SIZE = (96, 128)  # height, width


def draw_instance_ids(seed: int, things: bool = True) -> np.ndarray:
    """Stuff, and on it overlapping blobs: objects of all classes, group regions, a caravan, objects cut into pieces."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    ids = np.where(rows < 40, 23, 7).astype(np.uint16)  # sky, road
    ids[:, :3] = 3  # out of roi
    for number in range(14 if things else 0):
        label = [*LABEL_IDS, 29, 26][number % 10]
        centre, radius = rng.integers(0, SIZE), rng.integers(5, 22, 2)
        blob = ((rows - centre[0]) / radius[0]) ** 2 + ((columns - centre[1]) / radius[1]) ** 2 < 1
        ids[blob] = label if number % 6 == 5 else 1000 * label + number
    return ids


def write_pair(root: Path, split: str, name: str, ids: np.ndarray) -> None:
    """An image and its instanceIds file."""
    for folder, content, suffix in (("gtFine", ids, "gtFine_instanceIds"),
                                    ("leftImg8bit", np.zeros((*ids.shape, 3), np.uint8), "leftImg8bit")):
        file = root / folder / split / f"{name}_{suffix}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(file)


def make_tree(root: Path) -> Path:
    """A converted tree: of each split an official city and one of a made-up name, there an image without things."""
    for split, city in (("train", "aachen"), ("val", "frankfurt")):
        for number in range(3):
            write_pair(root, split, f"{city}/{city}_{number:06d}_000019", draw_instance_ids(number))
        write_pair(root, split, "übungsstadt/übungsstadt_000000_000000", draw_instance_ids(7))
        write_pair(root, split, "übungsstadt/übungsstadt_000001_000000", draw_instance_ids(8, things=False))
    prepare_cityscapes(root, workers=1)
    return root


def image_files(root: Path, split: str) -> list[Path]:
    """The images of a split, sorted."""
    return sorted((root / "leftImg8bit" / split).glob("*/*.png"))


def ids_files(root: Path, split: str) -> list[Path]:
    """Their instanceIds files."""
    return sorted((root / "gtFine" / split).glob("*/*.png"))
