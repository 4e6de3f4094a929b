"""What detectors find in images, beside the ground truth (supplement of LoCo, Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from loco_det.datasets.splits import select_image_ids
from loco_det.figures.predictions import Objects, TrainedDetector, annotated_objects, find_detector, predict
from pretrain.data.decoding import decode_image
from pretrain.eval.features import find_device
from pretrain.figures.style import (
    CHARACTER,
    TEXT_WIDTH,
    Drawing,
    class_color,
    figure_style,
    new_figure,
    titles_with_paths,
    wrapped,
)
from pretrain.results.method import unique_labels

MIN_COLUMN, MAX_COLUMN = 1.25, 1.9  # inches: room for a class name and score, and no larger than it takes to see
LABEL_SIZE = 6.5  # points
FILL = 0.4  # opacity of masks
HALO = (withStroke(linewidth=1.8, foreground="white"),)  # lines are seen on any background


def draw_detections(
    detectors: Sequence[str | Path],
    image_ids: Sequence[int] | None = None,
    count: int = 4,
    split: int = 0,
    score_threshold: float = 0.3,
    most: int = 8,
    data_root: str | Path | None = None,
) -> Drawing:
    """Ground truth and predictions: a row per validation image, a column per detector.

    Args:
        detectors: run directories of ``tools/train_det.py``, or checkpoints in them; all evaluated on the same images.
        image_ids: of the images; None for random ones, the same wherever they are drawn.
        count: of random images.
        split: whose detector is taken of a run directory.
        score_threshold: objects of a lower score are not shown.
        most: objects that are shown of an image and detector: those of the highest scores.
        data_root: folder of the data set; None for where it was when the detectors were trained.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path is not a detector, detectors are of different data sets, or an image is not among them.
    """
    found = [find_detector(path, split, data_root) for path in detectors]
    for other in found[1:]:
        if any(found[0].annotations[key] != other.annotations[key] for key in ("images", "annotations", "categories")):
            raise ValueError(f"{found[0].checkpoint} and {other.checkpoint} were evaluated on different data; draw "
                             "detectors of one data set")
    chosen = _choose_images(found[0], image_ids, count)
    labels = unique_labels(detector.record.method for detector in found)
    titles = titles_with_paths([labels[detector.record.method["key"]] for detector in found], detectors)
    columns = {"ground truth": {image_id: annotated_objects(found[0], image_id) for image_id in chosen}}
    device = find_device("auto")
    for title, detector in zip(titles, found, strict=True):
        columns[title] = predict(detector, chosen, score_threshold, device)
    images = {image_id: np.asarray(decode_image(found[0].images / found[0].image(image_id)["file_name"]))
              for image_id in chosen}
    with figure_style():
        figure = _draw(columns, images, found[0].classes, most, score_threshold)
    data_set = found[0].record.content["dataset"]
    return Drawing(figure, f"What detectors find on {len(chosen)} validation images of {data_set}, with one backbone per "
                   f"column, beside the ground truth: of scores of at least {score_threshold:g} the {most} best of each.")


def _choose_images(detector: TrainedDetector, image_ids: Sequence[int] | None, count: int) -> list[int]:
    known = [image["id"] for image in detector.annotations["images"]]
    if image_ids is None:
        return select_image_ids(known, min(count, len(known)), seed=0)
    unknown = sorted(set(image_ids) - set(known))
    if unknown:
        raise ValueError(f"image {unknown[0]} is not among the {len(known)} validation images; their ids go from "
                         f"{min(known)} to {max(known)}")
    return list(dict.fromkeys(image_ids))


def _draw(
    columns: Mapping[str, Mapping[int, Objects]], images: Mapping[int, np.ndarray], classes: Sequence[str], most: int,
    score_threshold: float,
) -> Figure:
    width = min(max(TEXT_WIDTH / len(columns), MIN_COLUMN), MAX_COLUMN)
    titles = [wrapped(title, width) for title in columns]
    heights = [width * image.shape[0] / image.shape[1] for image in images.values()]
    figure, axes = new_figure(
        len(columns), len(images), width=width * len(columns) + 0.2, gridspec_kw=dict(height_ratios=heights),
        height=sum(heights) + 0.12 + 0.13 * max(title.count("\n") + 1 for title in titles),
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, pad=3)
    for row, (image_id, image) in enumerate(images.items()):
        for place, found in enumerate(columns.values()):
            ax, objects = axes[row * len(columns) + place], found[image_id]
            if place == 0:
                ax.set_ylabel(str(image_id), fontsize=LABEL_SIZE, labelpad=2)
            shown = objects if objects.scores is None else objects.best(most)
            _draw_objects(ax, image, shown, classes, pixels_per_inch=image.shape[1] / width)
            if not len(objects) and objects.scores is not None:
                ax.text(0.5, 0.5, f"none ≥ {score_threshold:g}", transform=ax.transAxes, fontsize=LABEL_SIZE, ha="center",
                        va="center", bbox=dict(boxstyle="square,pad=0.3", facecolor="white", edgecolor="none", alpha=0.85))
    return figure


def _draw_objects(ax: Axes, image: np.ndarray, objects: Objects, classes: Sequence[str], pixels_per_inch: float) -> None:
    """An image ``(H, W, 3)`` uint8 with its objects; coordinates are COCO's, pixel (0, 0) reaches from 0 to 1."""
    height, width = image.shape[:2]
    colors = [class_color(int(label)) for label in objects.labels]
    filled = image.astype(np.float64)
    for mask, color in zip(objects.masks if objects.masks is not None else (), colors, strict=False):
        filled[mask] = (1 - FILL) * filled[mask] + FILL * 255 * np.array(to_rgb(color))
    ax.imshow(np.rint(filled).astype(np.uint8), extent=(0, width, height, 0), interpolation="antialiased")
    ax.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for mask, color in zip(objects.masks if objects.masks is not None else (), colors, strict=False):
        outline = ax.contour(  # padded, so that masks are closed where they meet the image's border
            np.arange(-0.5, width + 1), np.arange(-0.5, height + 1), np.pad(mask, 1), levels=[0.5], colors=[color],
            linewidths=0.9)
        outline.set_path_effects(HALO)
    taken: list[Bbox] = []
    for index, (box, color) in enumerate(zip(objects.boxes, colors, strict=True)):
        ax.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, edgecolor=color, linewidth=0.7, path_effects=HALO))
        text = classes[objects.labels[index]]
        text += "" if objects.scores is None else f" {objects.scores[index]:.2f}"
        size = np.array([CHARACTER * len(text), 1.45 / 72]) * LABEL_SIZE * pixels_per_inch
        place = _label_place(box, size, (width, height), taken)
        if place is not None:
            taken.append(place)
            ax.text(place.x0, place.y0, text, fontsize=LABEL_SIZE, color="white" if _is_dark(color) else "black", ha="left",
                    va="top", bbox=dict(boxstyle="square,pad=0.12", facecolor=color, edgecolor="none", alpha=0.9),
                    clip_on=True)


def _label_place(box: np.ndarray, size: np.ndarray, image: tuple[int, int], taken: Sequence[Bbox]) -> Bbox | None:
    """Where in the image a label of a size has room above, below or in a box; None where others take it all."""
    for top in (box[1] - size[1], box[3], box[1], box[3] - size[1]):
        for left in (box[0], box[2] - size[0]):
            corner = np.clip((left, top), 0, np.maximum(np.array(image) - size, 0))
            place = Bbox([corner, corner + size])
            if not place.count_overlaps(taken):
                return place
    return None


def _is_dark(color: str) -> bool:
    """Whether white text is read better than black on a colour."""
    return float(np.dot([0.3, 0.6, 0.1], to_rgb(color))) < 0.45
