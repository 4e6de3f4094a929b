"""The linear evaluation of the second paper: Adam on features of images as they are, which are extracted once."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from tqdm import tqdm

from pretrain.distributed import comm
from pretrain.eval.accuracy import AccuracyCounter
from pretrain.eval.features import extract_session
from pretrain.eval.session import DEFAULT_BATCH_SIZE, Outcome, Session, check_above_zero
from pretrain.eval.training import check_finite, linear_head


@dataclass(frozen=True)
class AdamLinearProbe:
    """Linear classifiers on frozen pooled features, trained by Adam (Fournier et al., 2023, section 4.1).

    The paper names loss, optimizer, batch size and epochs. It leaves open, and we choose: training images are not augmented
    (the paper says so of test images), features are taken as they come out of the encoder, without standardising them, and
    the learning rate is constant.

    Args:
        epochs: 200 in the paper.
        batch_size: images of a step of Adam, and images that are run through the encoder at once.
        lr: learning rate.
        weight_decay: times the weights and biases, added to their gradients as ``torch.optim.Adam`` does.

    Raises:
        ValueError: an option is not above 0, or the weight decay below 0.
    """

    epochs: int = 200
    batch_size: int = DEFAULT_BATCH_SIZE
    lr: float = 1e-3
    weight_decay: float = 1e-6

    kind = "linear_adam"
    keeps_encoder = True

    def __post_init__(self) -> None:
        check_above_zero(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0")

    def protocol(self) -> dict[str, Any]:
        """See :class:`~pretrain.eval.session.Method`."""
        return dict(**asdict(self), augmentation=None)

    def run(self, session: Session) -> Outcome:
        """See :class:`~pretrain.eval.session.Method`; ``train_top1`` is that of the trained classifiers."""
        data = extract_session(session, self.batch_size)
        train, test, classes = data.train, data.test, session.data.num_classes
        heads = {name: linear_head(x.shape[1], classes, session.seed).to(x) for name, x in train.features.items()}
        train_heads(heads, train.features, train.labels, self, session.seed)
        trained = head_accuracy(heads, train.features, train.labels, self.batch_size)
        tested = head_accuracy(heads, test.features, test.labels, self.batch_size)
        stages = {name: dict(top1=top1, top5=top5, train_top1=trained[name][0]) for name, (top1, top5) in tested.items()}
        for name, (top1, _) in tested.items():
            print_log(f"{name}: top-1 {top1:.2f}%", logger="current")
        return Outcome(stages, data.images_per_s, dict(train=train.corrupt, test=test.corrupt))


def train_heads(
    heads: Mapping[str, nn.Linear], features: Mapping[str, Tensor], labels: Tensor, options: AdamLinearProbe, seed: int
) -> None:
    """Trains classifiers side by side; each sees what it would see alone, and becomes what it would become.

    All processes compute the same: minibatches are drawn from the seed, in a new order every epoch, the last one of an epoch
    as small as it comes.

    Args:
        heads: by name, changed in place.
        features: ``{name: (N, C)}``.
        labels: ``(N,)``.
        options: epochs, batch size, learning rate and weight decay.
        seed: of the orders.

    Raises:
        RunFailedError: training diverged.
    """
    trained = nn.ModuleList(heads.values())
    optimizer = torch.optim.Adam(trained.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True)
    generator = torch.Generator().manual_seed(seed)
    disable = None if comm.rank() == 0 else True  # None: shown only where stderr is a terminal
    for epoch in tqdm(range(options.epochs), desc="Adam", unit="epoch", leave=False, file=sys.stderr, disable=disable):
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        total = torch.zeros((), device=labels.device)
        for rows in order.split(options.batch_size):
            targets = labels[rows]  # (B,)
            losses = [F.cross_entropy(head(features[name][rows]), targets) for name, head in heads.items()]
            loss = torch.stack(losses).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        steps = -(-len(labels) // options.batch_size)
        check_finite(trained, total.item() / (steps * len(heads)), epoch + 1)


@torch.no_grad()
def head_accuracy(
    heads: Mapping[str, nn.Linear], features: Mapping[str, Tensor], labels: Tensor, batch_size: int
) -> dict[str, tuple[float, float | None]]:
    """Top-1 and top-5 accuracy in percent by name; every process has all features and computes the same."""
    classes = next(iter(heads.values())).out_features
    counter = AccuracyCounter(tuple(heads), classes, labels.device)
    for first in range(0, len(labels), batch_size):
        rows = slice(first, first + batch_size)
        counter.add({name: head(features[name][rows]) for name, head in heads.items()}, labels[rows])
    return counter.percentages()
