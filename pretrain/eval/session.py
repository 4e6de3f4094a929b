"""What every method of evaluation is given: an encoder, data, and how to go about it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from pretrain.encoders import Encoder
from pretrain.eval.data import LabelledData
from pretrain.eval.encoders import PooledFeatures

DEFAULT_BATCH_SIZE = 256
DEFAULT_IMAGE_SIZE = 224  # where the size of the pretraining is not recorded


@dataclass(frozen=True)
class Session:
    """One encoder and one labelled data set.

    Attributes:
        encoder: on its device.
        stages: names of the stages to evaluate, or of blocks, bottom up.
        data: training and test set.
        image_size: side of the views in pixels.
        workers: processes that load images; 0 loads in this one.
        seed: of everything random.
        device: where to compute.
        state_file: where a method that takes long keeps what it needs to go on.
        settings: what the result depends on, as plain data; a state of other settings is not resumed.
        resume: whether to go on from ``state_file`` if it is there.
        autocast: ``"bfloat16"`` to run the encoder in that type, None for float32.
    """

    encoder: Encoder
    stages: tuple[str, ...]
    data: LabelledData
    image_size: int = DEFAULT_IMAGE_SIZE
    workers: int = 0
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    state_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    autocast: str | None = None

    def pooled_features(self) -> PooledFeatures:
        """The encoder's pooled features of the stages, in eval mode."""
        return PooledFeatures(self.encoder, self.stages, self.autocast).to(self.device).eval()


@dataclass(frozen=True)
class Outcome:
    """What a method measured.

    Attributes:
        stages: by stage ``top1`` and ``top5`` on the test set, ``train_top1`` where there is one (all in percent;
            ``top5`` is None with five classes or fewer), and whatever else belongs to a stage.
        images_per_s: training images that went through the encoder per second, over all processes.
        corrupt: how many images of ``train`` and ``test`` could not be decoded.
        earlier_s: seconds of work that this process found done, by the run that it has resumed.
    """

    stages: dict[str, dict[str, Any]]
    images_per_s: float
    corrupt: dict[str, int]
    earlier_s: float = 0.0


class Method(Protocol):
    """A way to evaluate an encoder.

    Attributes:
        kind: its name in records and file names.
        keeps_encoder: whether the encoder must come out bit-identical.
    """

    kind: str
    keeps_encoder: bool

    def protocol(self) -> dict[str, Any]:
        """All hyper-parameters, as plain data."""

    def run(self, session: Session) -> Outcome:
        """Trains on the training set and measures on the test set."""


def check_above_zero(**options: float) -> None:
    """Checks that every option is a number above 0.

    Raises:
        ValueError: one is not.
    """
    for name, value in options.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be above 0")


def default_workers() -> int:
    """As many loading processes as there are processors for each training process, 8 at most."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, processors // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
