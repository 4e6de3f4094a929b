"""The linear classification protocol of the LoCo paper, on all stages in one pass.

MoCo's ``main_lincls.py`` with LoCo's optimizer (section 5.1): SGD without momentum, learning rate 30, 100 epochs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.eval.encoders import PooledFeatures
from pretrain.eval.session import DEFAULT_BATCH_SIZE, Outcome, Session, check_above_zero
from pretrain.eval.training import Classifiers, linear_head, make_training_loader, train_and_test

LEARNING_RATE = 30.0  # at batch size 256
MILESTONES = (3, 6, 9)  # tenths of the epochs after which the learning rate drops to a tenth: 30, 60 and 90 of 100


@dataclass(frozen=True)
class LinearProbe:
    """Linear classifiers on frozen pooled features, trained on augmented images.

    Args:
        epochs: 100 in the paper.
        batch_size: of all processes together.
        lr: initial learning rate; 30 at batch size 256 and in proportion by default.

    Raises:
        ValueError: an option is not above 0.
    """

    epochs: int = 100
    batch_size: int = DEFAULT_BATCH_SIZE
    lr: float | None = None

    kind = "linear"
    keeps_encoder = True

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", LEARNING_RATE * self.batch_size / DEFAULT_BATCH_SIZE)
        check_above_zero(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)

    def protocol(self) -> dict[str, Any]:
        """See :class:`~pretrain.eval.session.Method`."""
        milestones = [tenths * self.epochs / 10 for tenths in MILESTONES]
        return dict(**asdict(self), milestones=milestones, momentum=0.0, weight_decay=0.0,
                    augmentation="random resized crop (0.08-1, bilinear), flip")

    def run(self, session: Session) -> Outcome:
        """See :class:`~pretrain.eval.session.Method`."""
        model = LinearClassifiers(session.pooled_features(), session.data.num_classes, session.seed).to(session.device)
        optimizer = torch.optim.SGD(model.heads.parameters(), lr=self.lr)
        schedule = partial(step_decay, lr=self.lr, epochs=self.epochs)
        return train_and_test(model, optimizer, schedule, session, make_training_loader(session, self.batch_size),
                              self.epochs)


class LinearClassifiers(Classifiers):
    """One linear classifier a stage; they share the encoder's forward pass and nothing else.

    Args:
        features: the frozen encoder.
        num_classes: the number of classes.
        seed: of the classifiers' weights.
    """

    def __init__(self, features: PooledFeatures, num_classes: int, seed: int) -> None:
        super().__init__()
        self.features, self.stages, self.num_classes = features, features.stages, num_classes
        self.heads = nn.ModuleDict({name: linear_head(width, num_classes, seed) for name, width in features.widths.items()})

    def trained(self) -> nn.Module:
        """The classifiers."""
        return self.heads

    def train(self, mode: bool = True) -> LinearClassifiers:
        """Sets the classifiers' mode; the encoder stays in eval mode."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """RGB images ``(B, 3, H, W)``, 0-255 -> ``{stage: logits (B, num_classes)}``."""
        with torch.no_grad():
            pooled = self.features(images)
        return {name: head(pooled[name]) for name, head in self.heads.items()}


def step_decay(epoch: float, lr: float, epochs: int) -> float:
    """The learning rate in ``epoch``, a tenth after each of the milestones."""
    return lr * 0.1 ** sum(10 * epoch >= tenths * epochs for tenths in MILESTONES)
