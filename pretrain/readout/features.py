"""Pooled features of a whole data set, extracted once."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from pretrain import distributed
from pretrain.readout.data import LabelledImages, TestView, check_undecodable, evaluation_loader
from pretrain.readout.encoders import PooledFeatures
from pretrain.readout.session import Session


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of the images that could be decoded, in the data set's order.

    Attributes:
        features: ``{stage: (N, C)}`` float32.
        labels: ``(N,)`` int64.
        undecodable: how many images are left out.
    """

    features: dict[str, Tensor]
    labels: Tensor
    undecodable: int


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
        batch_size: images that one process runs at once.

    Raises:
        RunFailedError: too many images cannot be decoded.
    """
    view, pooled = TestView(session.image_size), session.pooled_features()
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
    features, labels = {name: [] for name in pooled.stages}, []
    disable = None if distributed.rank() == 0 else True  # None: shown only where stderr is a terminal
    loader = evaluation_loader(dataset, batch_size, workers)
    for images, targets in tqdm(loader, desc="features", unit="batch", leave=False, file=sys.stderr, disable=disable):
        for name, values in pooled(images.to(device, non_blocking=True)).items():
            features[name].append(values)  # (B, C)
        labels.append(targets.to(device))
    all_labels = _gather_shards(_concatenated(labels, torch.zeros(0, dtype=torch.int64, device=device)), len(dataset))
    kept = all_labels >= 0
    gathered = {}
    for name, width in pooled.widths.items():
        own = _concatenated(features.pop(name), torch.zeros(0, width, device=device))
        gathered[name] = _gather_shards(own, len(dataset))[kept]
    return FeatureSet(gathered, all_labels[kept], check_undecodable(dataset, device))


def _concatenated(parts: list[Tensor], empty: Tensor) -> Tensor:
    return torch.cat(parts) if parts else empty  # a process has no batch where there are more processes than images


def _gather_shards(own: Tensor, total: int) -> Tensor:
    """Puts rows that were dealt out to the processes one by one back into their order: ``(n, ...)`` -> ``(total, ...)``."""
    processes = distributed.world_size()
    if processes == 1:
        return own
    longest = -(-total // processes)
    padded = own.new_zeros(longest, *own.shape[1:])
    padded[: len(own)] = own
    shards = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(shards, padded)
    return torch.stack(shards, dim=1).flatten(0, 1)[:total]  # (longest, processes, ...) -> (total, ...)
