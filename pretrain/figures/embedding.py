"""t-SNE maps of encoders' features of labelled images (supplement of LoCo, Figure 2), and how well classes separate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits
from torch import Tensor

from pretrain.data.sources import ImageDataset, build_source, default_splits, labelled
from pretrain.eval.data import DEFAULT_IMAGE_SIZE, CentreView, LabelledImages, balanced_subset, default_workers
from pretrain.eval.features import PooledFeatures, extract_features, find_device, frozen, load_encoder
from pretrain.figures.style import (
    TEXT_WIDTH,
    Drawing,
    class_color,
    class_marker,
    figure_style,
    legend_height,
    new_figure,
    outside_legend,
    titles_with_paths,
    wrapped,
)
from pretrain.results.method import RANDOM, dataset_name, unique_labels

DEFAULT_CLASSES = 10
DEFAULT_IMAGES = 500  # as in the supplement of LoCo, section 3
NEIGHBOURS = 10
PCA_DIMENSIONS = 50  # before t-SNE, as its authors do
PERPLEXITY = 30
MAX_COLUMNS = 3
BATCH_SIZE = 128


@dataclass(frozen=True)
class ImageChoice:
    """Which labelled images are embedded; every encoder gets the same ones.

    Attributes:
        source: name or config of an image source with labels.
        data_root: where it reads from.
        split: None for the one that evaluations test on.
        classes: names; None for the first ten by name.
        images: how many at most, as evenly over the classes as there are.
        seed: of the choice.
    """

    source: str | Mapping
    data_root: str
    split: str | None = None
    classes: Sequence[str] | None = None
    images: int = DEFAULT_IMAGES
    seed: int = 0


@dataclass(frozen=True)
class _Panel:
    """One encoder.

    Attributes:
        method: what it was trained with.
        encoder: its name or config.
        image_size: side of its views in pixels.
        stage: whose features are embedded.
        features: ``(N, C)``, L2-normalised.
        labels: ``(N,)`` int64.
    """

    method: Mapping[str, Any]
    encoder: str | Mapping[str, Any]
    image_size: int
    stage: str
    features: Tensor
    labels: Tensor


def draw_embedding(
    files: Sequence[str],
    choice: ImageChoice,
    stage: str | None = None,
    encoder: str | Mapping | None = None,
    image_size: int | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Drawing:
    """t-SNE of the pooled features of one stage, a panel per encoder.

    Features are L2-normalised, reduced to 50 dimensions by PCA and mapped by t-SNE from PCA's first two. Below each panel
    stand two numbers of the features themselves, not of the map: the accuracy of leave-one-out k-nearest-neighbour votes
    and the mean silhouette, both by cosine.

    Args:
        files: exported backbones, pretraining checkpoints, bare state dicts, or ``"random"``.
        choice: which images.
        stage: name of an encoder's stage; the last one by default, which of PResNet-50 has the 4096 features of the
            supplement's Figure 2.
        encoder: of files without a record, and of ``"random"``; None where files have records, and ``"random"`` is to be as
            the first file.
        image_size: side of the views in pixels; None for that of each pretraining's, or 224 where it is not recorded.
        device: of torch; ``"auto"`` is CUDA where there is one.
        workers: processes that load images; None to choose by the number of processors.

    Raises:
        ValueError: a file, the data, a class or the stage does not fit, or there are too few images.
        RunFailedError: too many images are corrupt.
    """
    source, indices, chosen = _choose_images(choice)
    target, workers = find_device(device), default_workers() if workers is None else workers
    panels: list[_Panel] = []
    for file in files:
        like = panels[0] if panels and file == RANDOM else None
        built, origin = load_encoder(file, encoder or (like and like.encoder), choice.seed)
        name = list(built.stages)[-1] if stage is None else stage
        if name not in built.stages:
            raise ValueError(f"the encoder of {file} has no stage {stage!r}; it has {', '.join(built.stages)}")
        setting = origin["identity"]["setting"]
        side = image_size or setting.get("image_size") or (like.image_size if like else DEFAULT_IMAGE_SIZE)
        with frozen(built):
            pooled = PooledFeatures(built, [name]).to(target).eval()
            found = extract_features(pooled, LabelledImages(source, indices, CentreView(side)), BATCH_SIZE, workers, target)
        features = F.normalize(found.features[name].cpu(), dim=1)  # (N, C)
        panels.append(_Panel(origin["identity"]["method"], setting["encoder"], side, name, features, found.labels.cpu()))
    by_key = unique_labels(panel.method for panel in panels)
    titles = titles_with_paths([by_key[panel.method["key"]] for panel in panels], files)
    with figure_style():
        figure = _draw(panels, titles, source.classes, chosen, choice.seed)
    data_set = dataset_name({"source": choice.source, "root": Path(choice.data_root).resolve().name})
    return Drawing(figure, f"t-SNE of the {panels[0].stage} features of {len(panels[0].labels)} images of {len(chosen)} "
                   f"classes of {data_set}; under each panel, of the features and not of the map: accuracy of "
                   f"leave-one-out votes of {NEIGHBOURS} nearest neighbours, and mean silhouette of the classes (-1 to 1), "
                   "both by cosine.")


def leave_one_out_knn(features: Tensor, labels: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """The share in percent of images that a vote of their nearest other images, by cosine, puts into their own class.

    Args:
        features: ``(N, C)``.
        labels: ``(N,)`` int64.
        neighbours: how many vote, at most all other N - 1; each has one vote, and ties go to the class of the lowest label.
    """
    unit = F.normalize(features.double(), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)  # (N, N)
    nearest = similarity.topk(min(neighbours, len(labels) - 1), dim=1).indices  # (N, k)
    votes = F.one_hot(labels[nearest], int(labels.max()) + 1).sum(dim=1)  # (N, classes)
    return 100 * (votes.argmax(dim=1) == labels).double().mean().item()


def silhouette(features: Tensor, labels: Tensor) -> float:
    """The mean silhouette of classes as clusters, by cosine distance: from -1, all mixed, to 1, far apart."""
    return float(silhouette_score(features.numpy(), labels.numpy(), metric="cosine"))


def tsne(features: np.ndarray, seed: int) -> np.ndarray:
    """A map ``(N, 2)`` of ``(N, C)`` features; the same for the same seed on one machine."""
    with threadpool_limits(1):  # sums keep their order
        reduced = PCA(min(PCA_DIMENSIONS, *features.shape), svd_solver="full").fit_transform(features.astype(np.float64))
        perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
        return TSNE(init="pca", perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(reduced)


def _choose_images(choice: ImageChoice) -> tuple[ImageDataset, np.ndarray, list[int]]:
    """The source, the images' indices, and the labels of the classes in the order of their names."""
    split = choice.split or default_splits(choice.source, choice.data_root)[1]
    source = labelled(build_source(choice.source, choice.data_root, split))
    names = list(dict.fromkeys(choice.classes or sorted(source.classes)[:DEFAULT_CLASSES]))
    if unknown := [name for name in names if name not in source.classes]:
        raise ValueError(f"{source.description} has no class {unknown[0]!r}; it has {', '.join(sorted(source.classes)[:20])}"
                         f"{', ...' if len(source.classes) > 20 else ''}")
    chosen = [source.classes.index(name) for name in names]
    of_classes = np.flatnonzero(np.isin(source.labels, chosen))
    labels = source.labels[of_classes]
    size, present = min(choice.images, len(labels)), len(np.unique(labels))
    if not 2 <= present < size:
        raise ValueError(f"{size} images of {present} classes cannot be embedded; choose at least two classes and more "
                         "images than classes")
    return source, of_classes[balanced_subset(labels, size, choice.seed)], chosen


def _draw(
    panels: Sequence[_Panel], titles: Sequence[str], classes: Sequence[str], chosen: Sequence[int], seed: int
) -> Figure:
    rows = -(-len(panels) // MAX_COLUMNS)
    columns = -(-len(panels) // rows)
    width = TEXT_WIDTH * max(columns, 2) / MAX_COLUMNS
    names = [classes[label] for label in chosen]
    lines = [wrapped(title, width / columns) for title in titles]
    text_height = 0.35 + 0.13 * max(title.count("\n") + 1 for title in lines)
    height = rows * (width / columns + text_height) + 0.1 + legend_height(names, width)
    figure, axes = new_figure(columns, rows, width, height)
    for ax, panel, title in zip(axes, panels, lines, strict=False):
        ax.set_title(title)
        _draw_panel(ax, panel, chosen, seed)
    for ax in axes[len(panels):]:
        ax.set_axis_off()
    handles = [Line2D([], [], linestyle="", marker=class_marker(place), color=class_color(place))
               for place in range(len(names))]
    outside_legend(figure, handles, names, "lower center")
    return figure


def _draw_panel(ax: Axes, panel: _Panel, chosen: Sequence[int], seed: int) -> None:
    points = tsne(panel.features.numpy(), seed)
    for place, label in enumerate(chosen):
        x, y = points[panel.labels.numpy() == label].T
        ax.scatter(x, y, s=9, marker=class_marker(place), color=class_color(place), linewidths=0, alpha=0.85)
    ax.set(xticks=[], yticks=[], box_aspect=1)
    knn, signed = leave_one_out_knn(panel.features, panel.labels), silhouette(panel.features, panel.labels)
    ax.set_xlabel(f"kNN {knn:.1f} %, silhouette {signed:.3f}".replace("-", "\N{MINUS SIGN}"))
    ax.spines[:].set_visible(True)
