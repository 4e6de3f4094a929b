"""Fine-tuning of the whole network on a labelled set: SimCLR's transfer setting (Chen et al., 2020, appendix B.8.1)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.distributed import comm
from pretrain.distributed.sync_batchnorm import convert_batchnorm
from pretrain.eval.encoders import PooledFeatures
from pretrain.eval.session import DEFAULT_BATCH_SIZE, Outcome, Session, check_above_zero
from pretrain.eval.training import Classifiers, linear_head, make_training_loader, train_and_test

LEARNING_RATE = 0.05  # at batch size 256, SimCLR's for few labels (appendix B.5)
MOMENTUM = 0.9


@dataclass(frozen=True)
class FineTuning:
    """The encoder and a fresh linear classifier on its last stage, trained end to end.

    SGD with Nesterov momentum, and a cosine from the initial learning rate to 0, step by step. With several processes,
    batch norm takes its statistics over the global batch.

    Args:
        epochs: how many.
        batch_size: of all processes together.
        lr: initial learning rate; 0.05 at batch size 256 and in proportion by default.
        weight_decay: of all parameters.

    Raises:
        ValueError: an option is out of range; when run, also if there are fewer than two images of a batch for a process.
    """

    epochs: int = 30
    batch_size: int = DEFAULT_BATCH_SIZE
    lr: float | None = None
    weight_decay: float = 1e-4

    kind = "finetune"
    keeps_encoder = False

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", LEARNING_RATE * self.batch_size / DEFAULT_BATCH_SIZE)
        check_above_zero(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0")

    def protocol(self) -> dict[str, Any]:
        """See :class:`~pretrain.eval.session.Method`."""
        return dict(**asdict(self), momentum=MOMENTUM, nesterov=True, schedule="cosine",
                    augmentation="random resized crop (0.08-1, bilinear), flip")

    def run(self, session: Session) -> Outcome:
        """See :class:`~pretrain.eval.session.Method`; changes the session's encoder."""
        return self.train(self.classifier(session), session)

    def classifier(self, session: Session) -> FineTunedClassifier:
        """The session's encoder under a fresh classifier, ready to be trained in as many processes as there are."""
        least = 2 * comm.world_size()
        if self.batch_size < least:
            raise ValueError(f"batch size {self.batch_size} is too small to fine-tune in {comm.world_size()} "
                             "process(es): batch norm takes its statistics over a batch, which needs at least 2 images a "
                             f"process, {least} in all")
        if comm.world_size() > 1:
            if session.device.type == "cpu":
                convert_batchnorm(session.encoder)
            else:
                session.encoder.convert_sync_batchnorm()
        features = PooledFeatures(session.encoder, session.stages[-1:], session.autocast)
        return FineTunedClassifier(features, session.data.num_classes, session.seed).to(session.device)

    def train(self, model: FineTunedClassifier, session: Session) -> Outcome:
        """Trains and tests a classifier."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.lr, momentum=MOMENTUM, nesterov=True,
                                    weight_decay=self.weight_decay)
        # without a last batch that may be too small for batch norm
        loader = make_training_loader(session, self.batch_size, drop_last=True)
        schedule = partial(cosine, lr=self.lr, epochs=self.epochs)
        return train_and_test(model, optimizer, schedule, session, loader, self.epochs)


class FineTunedClassifier(Classifiers):
    """An encoder with a linear classifier on the pooled features of its last stage.

    Args:
        features: the encoder, of which one stage is pooled.
        num_classes: the number of classes.
        seed: of the classifier's weights.
    """

    def __init__(self, features: PooledFeatures, num_classes: int, seed: int) -> None:
        super().__init__()
        self.features, self.stages, self.num_classes = features, features.stages, num_classes
        self.head = linear_head(features.widths[self.stages[0]], num_classes, seed)

    def trained(self) -> nn.Module:
        """Everything."""
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """RGB images ``(B, 3, H, W)``, 0-255 -> ``{last stage: logits (B, num_classes)}``."""
        return {name: self.head(pooled) for name, pooled in self.features(images).items()}


def cosine(epoch: float, lr: float, epochs: int) -> float:
    """The learning rate in ``epoch``, on half a cosine from ``lr`` to 0."""
    return lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
