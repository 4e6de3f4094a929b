"""What detectors find in images, beside the ground truth (supplement of LoCo, Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from loco_det.datasets.splits import select_image_ids
from loco_det.figures.predictions import Objects, TrainedDetector, annotated_objects, find_detector, predict
from pretrain.data.decoding import decode_image
from pretrain.eval.features import find_device
from pretrain.figures.class_style import class_color, is_dark
from pretrain.figures.labels import unique_labels_by_path, wrapped
from pretrain.figures.style import TEXT_WIDTH, Drawing, figure_style, new_figure
from pretrain.results.method import unique_labels

DEFAULT_SCORE = 0.3
DEFAULT_MOST = 8
MIN_COLUMN, MAX_COLUMN = 1.25, 1.9  # inches: room for a class name and score, and no larger than it takes to see
FONT_SIZE = 6.5  # points, of the labels
CHARACTER = 0.62 * FONT_SIZE / 72  # inches: width of an average one
LINE = 1.45 * FONT_SIZE / 72  # inches: height of a label
MAX_COVERED = 0.2  # share of a label that others may lie on; nobody could read one under more
FILL = 0.4  # opacity of masks
HALO = (withStroke(linewidth=1.8, foreground="white"),)  # lines are seen on any background


@dataclass(frozen=True)
class _Column:
    """A title, the objects of every image, and of predictions the best score in it, shown or not."""

    title: str
    objects: dict[int, Objects]
    best_scores: dict[int, float | None] | None = None

    def counts(self) -> list[int]:
        return [len(objects) for objects in self.objects.values()]


def draw_detections(
    detectors: Sequence[str | Path],
    image_ids: Sequence[int] | None = None,
    count: int = 4,
    seed: int = 0,
    split: int = 0,
    score_threshold: float = DEFAULT_SCORE,
    most: int = DEFAULT_MOST,
    data_root: str | Path | None = None,
    device: str = "auto",
) -> Drawing:
    """Ground truth and predictions: a row per validation image, a column per detector.

    Args:
        detectors: run directories of ``tools/train_det.py``, or checkpoints in them; all evaluated on the same images.
        image_ids: of the images; None for random ones.
        count: of random images.
        seed: of random images: the same ones wherever they are drawn (:func:`loco_det.datasets.splits.select_image_ids`).
        split: whose detector is taken of a run directory.
        score_threshold: objects of a lower score are not shown.
        most: objects that are shown of an image and detector: those of the highest scores. All are counted.
        data_root: folder of the data set; None for where it lay when the detectors were trained.
        device: of torch; ``"auto"`` is CUDA where there is one.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: a path is no detector, detectors are of different data sets, an image is not among them, or an option is
            out of range.
    """
    if not 0 <= score_threshold <= 1:
        raise ValueError(f"the score threshold is {score_threshold}; scores lie between 0 and 1")
    if most < 1:
        raise ValueError(f"at most {most} objects are to be shown of an image; at least 1 is needed")
    found = [find_detector(path, split, data_root) for path in detectors]
    for other in found[1:]:
        _check_same_data(found[0], other)
    chosen = _choose_images(found[0], image_ids, count, seed)
    columns = [_Column("ground truth", {image_id: annotated_objects(found[0], image_id) for image_id in chosen})]
    target = find_device(device)
    labels = unique_labels(detector.record.method for detector in found)
    methods = [labels[detector.record.method["key"]] for detector in found]
    titles = unique_labels_by_path(methods, detectors, "{label}\n{hint}")
    for title, detector in zip(titles, found, strict=True):
        predicted = predict(detector, chosen, 0.0, target)
        columns.append(_Column(title, {image_id: predicted[image_id].of_score(score_threshold) for image_id in chosen},
                               {image_id: predicted[image_id].best_score for image_id in chosen}))
    images = {image_id: np.asarray(decode_image(found[0].image_file(image_id))) for image_id in chosen}
    with figure_style():
        figure = _draw(columns, images, found[0].classes, most, score_threshold)
    data_set = found[0].record.content["dataset"]
    return Drawing(
        figure,
        f"What detectors find on {len(chosen)} validation images of {data_set}, with one backbone per column, beside the "
        f"ground truth: of scores of at least {score_threshold:g} the {most} best of each image.",
        {"images": chosen, "score_threshold": score_threshold, "most_shown": most, "ground_truth": columns[0].counts(),
         "detectors": [{"method": method, "title": column.title, "checkpoint": str(detector.checkpoint),
                        "detections": column.counts(), "best_scores": list(column.best_scores.values())}
                       for method, detector, column in zip(methods, found, columns[1:], strict=True)]},
    )


def _check_same_data(first: TrainedDetector, other: TrainedDetector) -> None:
    for section in ("images", "annotations", "categories"):
        if first.annotations[section] != other.annotations[section]:
            raise ValueError(f"{first.checkpoint} and {other.checkpoint} were evaluated on different data (their {section} "
                             "differ); draw detectors of one data set")


def _choose_images(detector: TrainedDetector, image_ids: Sequence[int] | None, count: int, seed: int) -> list[int]:
    known = [image["id"] for image in detector.annotations["images"]]
    if image_ids is None:
        if not 1 <= count <= len(known):
            raise ValueError(f"{count} images are asked for; choose 1 to {len(known)}, as many as the validation set has")
        return select_image_ids(known, count, seed)
    unknown = sorted(set(image_ids) - set(known))
    if unknown:
        raise ValueError(f"image {unknown[0]} is not among the {len(known)} validation images; their ids go from "
                         f"{min(known)} to {max(known)}")
    return list(dict.fromkeys(image_ids))


def _draw(
    columns: Sequence[_Column], images: dict[int, np.ndarray], classes: Sequence[str], most: int, score_threshold: float
) -> Figure:
    width = min(max(TEXT_WIDTH / len(columns), MIN_COLUMN), MAX_COLUMN)
    title_lines = max(len(wrapped(column.title, width, 8)) for column in columns)
    heights = [width * image.shape[0] / image.shape[1] for image in images.values()]
    figure, axes = new_figure(
        len(columns), len(images), width=width * len(columns) + 0.2,
        height=float(np.mean(heights)) + (0.12 + 0.13 * title_lines) / len(heights),
        gridspec_kw=dict(height_ratios=heights),
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for row, (image_id, image) in enumerate(images.items()):
        in_row = axes[row * len(columns) : (row + 1) * len(columns)]
        for axis, column in zip(in_row, columns, strict=True):
            objects = column.objects[image_id]
            shown = objects if objects.scores is None else objects.best(most)
            _draw_objects(axis, image, shown, classes, pixels_per_inch=image.shape[1] / width)
            if column.best_scores is not None and not len(objects):
                _write_none(axis, score_threshold, column.best_scores[image_id])
            if row == 0:
                axis.set_title("\n".join(wrapped(column.title, width, 8)), pad=3)
        in_row[0].set_ylabel(str(image_id), fontsize=FONT_SIZE, labelpad=2)
    return figure


def _draw_objects(
    axis: Axes, image: np.ndarray, objects: Objects, classes: Sequence[str], pixels_per_inch: float
) -> None:
    """An image ``(H, W, 3)`` uint8 with its objects; coordinates are COCO's, pixel (0, 0) reaches from 0 to 1."""
    height, width = image.shape[:2]
    colors = [class_color(int(label)) for label in objects.labels]
    masks = [None] * len(objects) if objects.masks is None else objects.masks
    axis.imshow(_filled(image, masks, colors), extent=(0, width, height, 0), interpolation="antialiased")
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    for mask, box, color, crowd in zip(masks, objects.boxes, colors, objects.crowd, strict=True):
        if mask is not None:
            outline = axis.contour(  # padded, so that masks are closed where they meet the image's border
                np.arange(-0.5, width + 1), np.arange(-0.5, height + 1), np.pad(mask, 1), levels=[0.5], colors=[color],
                linewidths=0.9, linestyles="dotted" if crowd else "solid")
            outline.set_path_effects(HALO)
        axis.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, edgecolor=color, linewidth=0.7,
                                 path_effects=HALO))
    texts = [_text(objects, index, classes) for index in range(len(objects))]
    places = _label_places(objects.boxes, texts, (width, height), pixels_per_inch)
    for place, text, color in zip(places, texts, colors, strict=True):
        if place is None:
            continue
        axis.text(*place, text, fontsize=FONT_SIZE, color="white" if is_dark(color) else "black", ha="left", va="top",
                  bbox=dict(boxstyle="square,pad=0.12", facecolor=color, edgecolor="none", alpha=0.9), clip_on=True)


def _write_none(axis: Axes, score_threshold: float, best: float | None) -> None:
    """Says in an image that nothing of the score was found, and how far the best is from it."""
    text = "nothing found" if best is None else f"none ≥ {score_threshold:g}\n(best {best:.2g})"
    axis.text(0.5, 0.5, text, transform=axis.transAxes, fontsize=FONT_SIZE, ha="center", va="center",
              bbox=dict(boxstyle="square,pad=0.3", facecolor="white", edgecolor="none", alpha=0.85))


def _filled(image: np.ndarray, masks: Sequence[np.ndarray | None], colors: Sequence[str]) -> np.ndarray:
    """The image ``(H, W, 3)`` with translucent masks ``(H, W)`` in their colours."""
    filled = image.astype(np.float64)
    for mask, color in zip(masks, colors, strict=True):
        if mask is None:
            continue
        rgb = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)])
        filled[mask] = (1 - FILL) * filled[mask] + FILL * rgb
    return np.rint(filled).astype(np.uint8)


def _text(objects: Objects, index: int, classes: Sequence[str]) -> str:
    name = classes[objects.labels[index]]
    if objects.scores is None:
        return f"{name} (crowd)" if objects.crowd[index] else name
    return f"{name} {objects.scores[index]:.2f}"


def _label_places(
    boxes: np.ndarray, texts: Sequence[str], size: tuple[int, int], pixels_per_inch: float
) -> list[tuple[float, float] | None]:
    """Upper left corners of labels: at a corner of their box, within the image, off the labels before them.

    Args:
        boxes: ``(N, 4)``, the most important first.
        texts: of the labels.
        size: width and height of the image.
        pixels_per_inch: of the image, in the figure.

    Returns:
        A corner for each; None where labels crowd, and one more could not be read.
    """
    height = LINE * pixels_per_inch
    taken: list[tuple[float, float, float, float]] = []
    chosen: list[tuple[float, float] | None] = []
    for (left, top, right, bottom), text in zip(boxes, texts, strict=True):
        width = (len(text) * CHARACTER + 0.04) * pixels_per_inch
        corners = [(left, top - height), (left, bottom), (right - width, top - height), (right - width, bottom), (left, top),
                   (left, bottom - height), (right - width, top), (right - width, bottom - height)]
        places = [(max(0.0, min(x, size[0] - width)), max(0.0, min(y, size[1] - height))) for x, y in corners]
        covered = [sum(_overlap((x, y, x + width, y + height), other) for other in taken) for x, y in places]
        best = int(np.argmin(covered))
        readable = covered[best] <= MAX_COVERED * width * height
        chosen.append(places[best] if readable else None)
        if readable:
            x, y = places[best]
            taken.append((x, y, x + width, y + height))
    return chosen


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """The area that two boxes have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
