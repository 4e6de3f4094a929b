"""Pooled features of a whole data set, extracted once."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from pretrain.data.dataset import check_corrupt
from pretrain.distributed import comm
from pretrain.eval.data import CentreView, LabelledImages, evaluation_loader
from pretrain.eval.encoders import PooledFeatures
from pretrain.eval.session import Session


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of the images that could be decoded, in the data set's order.

    Attributes:
        features: ``{stage: (N, C)}`` float32.
        labels: ``(N,)`` int64.
        corrupt: how many images are left out.
    """

    features: dict[str, Tensor]
    labels: Tensor
    corrupt: int


@dataclass(frozen=True)
class ExtractedData:
    """Features of both sets of a session from test views, and how many training images a second gave them."""

    train: FeatureSet
    test: FeatureSet
    images_per_s: float


def extract_session(session: Session, batch_size: int) -> ExtractedData:
    """Runs the encoder over the session's training and test images.

    Args:
        session: what to run.
        batch_size: images that all processes together run at once.

    Raises:
        RunFailedError: too many images cannot be decoded.
    """
    batch_size = max(1, batch_size // comm.world_size())
    view, pooled = CentreView(session.image_size), session.pooled_features()
    sets = session.data.train_views(view), session.data.test_views(view)
    started = time.perf_counter()
    train = extract_features(pooled, sets[0], batch_size, session.workers, session.device)
    seconds = time.perf_counter() - started
    test = extract_features(pooled, sets[1], batch_size, session.workers, session.device)
    return ExtractedData(train, test, len(sets[0]) / seconds)


@torch.no_grad()
def extract_features(
    pooled: PooledFeatures, dataset: LabelledImages, batch_size: int, workers: int, device: torch.device
) -> FeatureSet:
    """Pooled features of every image, gathered from all processes.

    Args:
        pooled: the encoder, in eval mode.
        dataset: images with deterministic views.
        batch_size: images that one process runs at once.
        workers: processes that load images.
        device: where to run, and where the features stay.

    Raises:
        RunFailedError: too many images cannot be decoded.
    """
    loader = evaluation_loader(dataset, batch_size, workers)
    count = len(loader.sampler)  # this process's images
    features = {name: torch.empty(count, width, device=device) for name, width in pooled.widths.items()}
    labels = torch.empty(count, dtype=torch.int64, device=device)
    disable = None if comm.rank() == 0 else True  # None: shown only where stderr is a terminal
    first = 0
    for images, targets in tqdm(loader, desc="features", unit="batch", leave=False, file=sys.stderr, disable=disable):
        for name, values in pooled(images.to(device, non_blocking=True)).items():
            features[name][first : first + len(targets)] = values  # (B, C)
        labels[first : first + len(targets)] = targets
        first += len(targets)
    labels = comm.gather_in_turn(labels, len(dataset))
    kept = labels >= 0
    for name in pooled.widths:
        gathered = comm.gather_in_turn(features.pop(name), len(dataset))
        features[name] = gathered if kept.all() else gathered[kept]  # no copy of features without need
    return FeatureSet(features, labels[kept], len(check_corrupt(dataset)))
