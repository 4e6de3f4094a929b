"""The encoder that is evaluated, its pooled features, and a check that evaluating it changed nothing."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights
from tqdm import tqdm

from pretrain.data.dataset import check_corrupt
from pretrain.distributed import comm
from pretrain.encoders import Encoder, build_encoder
from pretrain.engine.checkpoints import CheckpointError, check_is_file, load_into, read_backbone
from pretrain.errors import RunFailedError
from pretrain.eval.arguments import SUPERVISED_FILE, check_random, where_to_get
from pretrain.eval.data import LabelledData, LabelledImages, evaluation_loader
from pretrain.learner import AUTOCAST, IMAGENET_MEAN, IMAGENET_STD
from pretrain.results.method import RANDOM, SUPERVISED, backbone_identity, random_identity


class EncoderChangedError(RunFailedError):
    """An evaluation has changed the encoder that it must only look at."""


def load_encoder(file: str, encoder: str | Mapping | None, seed: int) -> tuple[Encoder, dict[str, Any]]:
    """Builds the encoder to be evaluated and loads its weights strictly.

    Args:
        file: an exported backbone, a training checkpoint, a bare state dict of torchvision's, or ``"random"``.
        encoder: name or config of the encoder; needed for random weights and for files without a record, otherwise
            compared with the record.
        seed: of random weights.

    Returns:
        The encoder, in channels-last order, and its origin as plain data: ``file`` (name; ``"random"``), ``sha256`` (of the
        file; None for random weights) and ``identity`` (:mod:`pretrain.results.method`), whose setting has the config of the
        encoder.

    Raises:
        ValueError: the file is missing or does not fit, or it takes ``encoder`` to know which encoder it is.
    """
    check_random(file, encoder)
    if file == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            built = build_encoder(encoder)
        origin = dict(file=RANDOM, sha256=None, identity=random_identity(encoder, seed))
    else:
        built, origin = _load_file(Path(file), encoder)
    return built.to(memory_format=torch.channels_last), origin


def _load_file(path: Path, encoder: str | Mapping | None) -> tuple[Encoder, dict[str, Any]]:
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist{where_to_get(path)}")
    check_is_file(path)
    backbone = read_backbone(path)
    spec = encoder or backbone.encoder
    if spec is None:
        raise CheckpointError(f"{path} has no record of its encoder; name it with --encoder, such as --encoder resnet50")
    built = build_encoder(spec)
    load_into(built, backbone, expected=spec)
    identity = backbone_identity(backbone.meta, path, backbone.sha256, spec, source_of_weights(backbone.sha256))
    return built, dict(file=path.name, sha256=backbone.sha256, identity=identity)


def source_of_weights(sha256: str) -> str:
    """Where a file without a record is from: ``"supervised"`` for torchvision's ResNets, otherwise ``"file"``.

    Args:
        sha256: of the file; torchvision's files have its beginning in their names.
    """
    return SUPERVISED if sha256[:8] in _supervised_weights() else "file"


@lru_cache
def _supervised_weights() -> frozenset[str]:
    names = [weights.url for resnet in ("resnet18", "resnet34", "resnet50") for weights in get_model_weights(resnet)]
    return frozenset(re.search(r"-([0-9a-f]{8})\.pth$", name)[1] for name in (SUPERVISED_FILE, *names))


def block_names(encoder: Encoder) -> dict[str, int]:
    """A name for every block, bottom up: its stage and its number there from 1, as Fournier et al., table 3, count.

    Returns:
        ``{"res2.1": 0, "res2.2": 1, ...}``.
    """
    return {f"{name}.{block - start + 1}": block
            for name, (start, end) in encoder.stages.items() for block in range(start, end)}


class PooledFeatures(nn.Module):
    """Global average pooled features at the ends of an encoder's stages or blocks, from one forward pass.

    Args:
        encoder: serves the features.
        stages: names of stages, or of blocks as of :func:`block_names`, whose outputs are pooled.
        autocast: ``"bfloat16"`` to run the encoder in that type, None for float32.

    Attributes:
        stages: the names, bottom up.
        blocks: by name, which block's output is pooled.
    """

    def __init__(self, encoder: Encoder, stages: Sequence[str], autocast: str | None = None) -> None:
        super().__init__()
        self.autocast = autocast
        self.encoder = encoder
        blocks = {**block_names(encoder), **{name: end - 1 for name, (_, end) in encoder.stages.items()}}
        self.blocks = dict(sorted(((name, blocks[name]) for name in stages), key=lambda item: item[1]))  # bottom up
        self.stages = tuple(self.blocks)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    @property
    def widths(self) -> dict[str, int]:
        """Number of features by stage or block."""
        return {name: self.encoder.block_channels[block] for name, block in self.blocks.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """RGB images ``(B, 3, H, W)``, 0-255 of any type, on any device -> ``{name: (B, C)}`` float32, bottom up."""
        x = (images.to(self.mean.device, non_blocking=True).to(self.mean.dtype) - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        pooled, done = {}, 0
        for name, block in self.blocks.items():
            with torch.autocast(x.device.type, AUTOCAST[self.autocast], enabled=self.autocast is not None):
                x = self.encoder.run(x, done, block + 1)  # (B, C, h, w)
            pooled[name], done = x.to(self.mean.dtype).mean(dim=(2, 3)), block + 1
        return pooled


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, types and shapes, whatever their memory order and device."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def frozen(encoder: Encoder) -> Iterator[None]:
    """Holds an encoder in eval mode and without gradients, and proves afterwards that it is bit-identical.

    Raises:
        EncoderChangedError: a parameter or buffer, batch norm statistics included, differs from before.
    """
    before = weights_sha256(encoder)
    encoder.eval().requires_grad_(False)
    yield
    if weights_sha256(encoder) != before:
        raise EncoderChangedError("the encoder is not bit-identical after its evaluation: something trained it or updated "
                                  "its batch norm statistics; the result is not valid")


@dataclass(frozen=True)
class FeatureSet:
    """Features and labels of the images that are not corrupt, in the data set's order.

    Attributes:
        features: ``{stage: (N, C)}`` float32.
        labels: ``(N,)`` int64.
        corrupt: how many images are left out.
    """

    features: dict[str, Tensor]
    labels: Tensor
    corrupt: int = 0


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
        device: where the features stay.

    Raises:
        RunFailedError: too many images are corrupt, or a feature is not finite.
    """
    loader = evaluation_loader(dataset, batch_size, workers)
    count = len(loader.sampler)  # this process's images
    features = {name: torch.empty(count, width, device=device) for name, width in pooled.widths.items()}
    labels = torch.empty(count, dtype=torch.int64, device=device)
    first = 0
    for images, targets in progress(loader, "features"):
        for name, values in pooled(images).items():
            features[name][first : first + len(targets)] = values  # (B, C)
        labels[first : first + len(targets)] = targets
        first += len(targets)
    labels = comm.gather_in_turn(labels, len(dataset))
    kept = labels >= 0
    for name in pooled.widths:
        gathered = comm.gather_in_turn(features.pop(name), len(dataset))
        features[name] = gathered if kept.all() else gathered[kept]  # no copy of features without need
        if not features[name].isfinite().all():
            raise RunFailedError(f"the features of {name} are not finite; is the checkpoint of a run that diverged?")
    return FeatureSet(features, labels[kept], len(check_corrupt(dataset)))


def extract_both(pooled: PooledFeatures, data: LabelledData, batch_size: int) -> tuple[FeatureSet, FeatureSet]:
    """Features of the training and test images, none of them augmented; ``batch_size`` is that of all processes together."""
    share, device = max(1, batch_size // comm.world_size()), pooled.mean.device
    return (extract_features(pooled, data.train_images(), share, data.workers, device),
            extract_features(pooled, data.test_images(), share, data.workers, device))


def progress(batches: Iterable, name: str) -> Iterable:
    """A progress bar over batches, in the first process where stderr is a terminal."""
    disable = None if comm.rank() == 0 else True
    return tqdm(batches, desc=name, unit="batch", leave=False, file=sys.stderr, disable=disable)


def find_device(name: str) -> torch.device:
    """``"auto"``, or a device of torch's, as a device; under a launcher each process gets its own CUDA device.

    Raises:
        ValueError: torch knows no such device, or it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
