"""Linear classifiers on the features of every stage, and the one training loop of evaluations.

- :func:`linear_probe`: LoCo, section 5.1: MoCo's ``main_lincls.py`` with SGD without momentum, on augmented images.
- :func:`adam_probe`: Fournier et al. (2023), section 4.1: Adam on features that are extracted once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from pretrain.data.dataset import check_corrupt
from pretrain.distributed import comm
from pretrain.engine.checkpoints import complete, load_checkpoint, partial_path
from pretrain.engine.work_dir import differing_keys
from pretrain.errors import RunFailedError
from pretrain.eval.data import NO_LABEL, LabelledData, LabelledImages
from pretrain.eval.features import FeatureSet, PooledFeatures, extract_both, progress

MILESTONES = (3, 6, 9)  # tenths of the epochs after which the learning rate drops to a tenth: 30, 60 and 90 of 100
StageResults = dict[str, dict[str, Any]]  # by stage: top1, top5, train_top1 in percent, and whatever else belongs to it
Corrupt = dict[str, int]  # how many images of train and test


@dataclass(frozen=True)
class StateFile:
    """Where a training is saved after every epoch.

    Attributes:
        path: of the file.
        settings: what the result depends on, as plain data; a state of other settings is not resumed.
        resume: whether to go on from the file if it is there.
    """

    path: Path
    settings: Mapping[str, Any]
    resume: bool = False


def linear_probe(
    pooled: PooledFeatures, data: LabelledData, state: StateFile | None = None, *, epochs: int, batch_size: int, lr: float
) -> tuple[StageResults, Corrupt]:
    """Linear classifiers on frozen features of augmented images; all stages are trained in one pass.

    Args:
        pooled: the frozen encoder.
        data: training and test set.
        state: where to save the training.
        epochs: 100 in the paper.
        batch_size: images of a step, of all processes together.
        lr: initial learning rate; 30 at batch size 256 in the paper. Ten times less after 30, 60 and 90% of the epochs.
    """
    model = Classifiers(pooled, pooled.widths, data.num_classes, data.seed).to(pooled.mean.device)
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=lr)
    return train_on_images(model, optimizer, partial(step_decay, lr=lr, epochs=epochs), data, epochs, batch_size, state)


def adam_probe(
    pooled: PooledFeatures, data: LabelledData, *, epochs: int, batch_size: int, lr: float, weight_decay: float
) -> tuple[StageResults, Corrupt]:
    """Linear classifiers on frozen features that are extracted once, trained by Adam.

    The paper names loss, optimizer, batch size and epochs. It leaves open, and we choose: training images are not augmented
    (the paper says so of test images), features are not standardised, and the learning rate is constant.

    Args:
        pooled: the frozen encoder.
        data: training and test set.
        epochs: 200 in the paper.
        batch_size: images of a step, of all processes together, and images that are run through the encoder at once.
        lr: learning rate.
        weight_decay: of weights and biases, added to their gradients.
    """
    train, test = extract_both(pooled, data, batch_size)
    model = Classifiers(nn.Identity(), pooled.widths, data.num_classes, data.seed).to(train.labels.device)
    optimizer = torch.optim.Adam(model.heads.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    fit(model, feature_loader(train, batch_size, data.seed), optimizer, lambda epoch: lr, epochs)
    trained, stages = (measure(model, in_order(features, batch_size)) for features in (train, test))
    for name, found in stages.items():
        found["train_top1"] = trained[name]["top1"]
    return stages, dict(train=train.corrupt, test=test.corrupt)


class Classifiers(nn.Module):
    """One linear classifier a stage; they share the features and nothing else.

    Args:
        features: makes ``{stage: (B, C)}`` of a batch; an identity where batches are features already. What does not require
            a gradient stays in eval mode.
        widths: number of features by stage.
        num_classes: the number of classes.
        seed: of the classifiers' weights, which depend on it and their shape alone.
    """

    def __init__(self, features: nn.Module, widths: Mapping[str, int], num_classes: int, seed: int) -> None:
        super().__init__()
        self.features, self.stages, self.num_classes = features, tuple(widths), num_classes
        self.heads = nn.ModuleList(linear_head(width, num_classes, seed) for width in widths.values())

    def train(self, mode: bool = True) -> Classifiers:
        """Sets the mode; frozen features stay in eval mode."""
        super().train(mode)
        self.features.train(mode and any(parameter.requires_grad for parameter in self.features.parameters()))
        return self

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """A batch -> ``{stage: logits (B, num_classes)}``."""
        features = self.features(batch)
        return {name: head(features[name]) for name, head in zip(self.stages, self.heads, strict=True)}


def linear_head(width: int, num_classes: int, seed: int) -> nn.Linear:
    """A linear classifier initialised as MoCo's: weights normal with deviation 0.01, biases 0."""
    head = nn.Linear(width, num_classes)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
        head.bias.zero_()
    return head


def step_decay(epoch: float, lr: float, epochs: int) -> float:
    """The learning rate in ``epoch``, a tenth after each of the milestones."""
    return lr * 0.1 ** sum(10 * epoch >= tenths * epochs for tenths in MILESTONES)


def train_on_images(
    model: Classifiers,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[float], float],
    data: LabelledData,
    epochs: int,
    batch_size: int,
    state: StateFile | None = None,
    drop_last: bool = False,
) -> tuple[StageResults, Corrupt]:
    """Trains on augmented images and measures the last epoch's classifiers; ``train_top1`` is over its augmented views."""
    loader, test_loader = data.train_loader(batch_size, drop_last), data.test_loader(batch_size)
    train_top1 = fit(model, loader, optimizer, learning_rate, epochs, state)
    stages = measure(model, test_loader)
    for name, found in stages.items():
        found["train_top1"] = train_top1[name]
    return stages, dict(train=len(check_corrupt(loader.dataset)), test=len(check_corrupt(test_loader.dataset)))


def fit(
    model: Classifiers,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[float], float],
    epochs: int,
    state: StateFile | None = None,
) -> dict[str, float]:
    """Trains for the epochs that are left, saving the state after each.

    The loss is the mean cross entropy over a batch of all processes together, summed over stages.

    Args:
        model: on its device.
        loader: of this process's share of every batch and its labels; its sampler has ``set_epoch``.
        optimizer: of what is trained.
        learning_rate: by epochs done, a fraction within an epoch.
        epochs: how many in all.
        state: where to save.

    Returns:
        By stage the accuracy in percent on the batches of the last epoch, each as it was before its step.

    Raises:
        ValueError: there is a state that is not to be resumed, or one of other settings.
        RunFailedError: training diverged, or too many images are corrupt.
    """
    first, train_top1 = _restore(state, model, optimizer)
    for epoch in range(first, epochs):
        train_top1 = _train_epoch(model, loader, optimizer, learning_rate, epoch)
        if epoch == first and isinstance(loader.dataset, LabelledImages):
            check_corrupt(loader.dataset)
        _save(state, model, optimizer, epoch + 1, train_top1)
    return train_top1


def _train_epoch(
    model: Classifiers,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[float], float],
    epoch: int,
) -> dict[str, float]:
    model.train()
    loader.sampler.set_epoch(epoch)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = trained[0].device
    hits = torch.zeros(len(model.stages), 3, dtype=torch.int64, device=device)
    loss_sum = torch.zeros(1, dtype=torch.float64, device=device)
    for step, (batch, labels) in enumerate(progress(loader, f"epoch {epoch + 1}")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch + step / len(loader))
        labels = labels.to(device)
        logits = model(batch)
        loss = sum(F.cross_entropy(x, labels, ignore_index=NO_LABEL, reduction="sum") for x in logits.values())
        optimizer.zero_grad()
        loss.backward()
        _average_gradients(trained, (labels != NO_LABEL).sum())
        optimizer.step()
        loss_sum += loss.detach()
        hits += torch.stack([count_hits(x, labels) for x in logits.values()])
    comm.sum_over_ranks(loss_sum), comm.sum_over_ranks(hits)  # so that all processes fail or none
    mean_loss = loss_sum.item() / max(hits[:, 2].sum().item(), 1)
    # squares: logits of weights that large are beyond all reason even where they do not overflow
    if not (math.isfinite(mean_loss) and all(weight.square().sum().isfinite() for weight in trained)):
        raise RunFailedError(f"training diverged in epoch {epoch + 1}, mean loss {mean_loss:g}; lower the learning rate "
                             "with --lr")
    top1 = {name: percentages(row, model.num_classes)["top1"] for name, row in zip(model.stages, hits, strict=True)}
    shown = ", ".join(f"{name} {value:.2f}" for name, value in top1.items())
    print_log(f"epoch {epoch + 1}: loss {mean_loss:.4f}, training accuracy in percent: {shown}", logger="current")
    return top1


def _average_gradients(trained: Iterable[Tensor], count: Tensor) -> None:
    """Makes gradients of a sum over this process's images into those of the mean over all processes' images.

    Args:
        trained: parameters, which hold the gradients.
        count: how many images this process had.
    """
    grads = [parameter.grad for parameter in trained if parameter.grad is not None]
    if comm.world_size() > 1:
        bucket = torch.cat([*(grad.reshape(-1) for grad in grads), count.to(grads[0].dtype).view(1)])
        *parts, count = comm.sum_over_ranks(bucket).split([*(grad.numel() for grad in grads), 1])
        torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
    count = count.clamp_min(1)
    for grad in grads:
        grad /= count


def _save(state: StateFile | None, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, top1: dict) -> None:
    if state is None or comm.rank() > 0:
        return
    state.path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(model=model.state_dict(), optimizer=optimizer.state_dict(), epoch=epoch, train_top1=top1,
                    settings=json.dumps(state.settings)), partial_path(state.path))
    complete(state.path)


def _restore(state: StateFile | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, dict[str, float]]:
    """Epochs done, and the accuracy in the last one."""
    if state is None or not state.path.exists():
        return 0, {}
    if not state.resume:
        raise ValueError(f"{state.path} is of an unfinished run; pass --resume to continue it, or delete it")
    content = load_checkpoint(state.path)
    if differing := differing_keys(json.loads(content["settings"]), state.settings):
        raise ValueError(f"{state.path} is of an unfinished run with other settings ({', '.join(differing[:5])}); choose "
                         "another file with --out, or delete this one")
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    print_log(f"continuing {state.path} after epoch {content['epoch']}", logger="current")
    return content["epoch"], content["train_top1"]


@torch.no_grad()
def measure(model: Classifiers, batches: Iterable[tuple[Any, Tensor]]) -> StageResults:
    """Top-1 and top-5 accuracy in percent by stage; every process passes its share of the images."""
    model.eval()
    device = next(model.parameters()).device
    hits = torch.zeros(len(model.stages), 3, dtype=torch.int64, device=device)
    for batch, labels in progress(batches, "testing"):
        hits += torch.stack([count_hits(x, labels.to(device)) for x in model(batch).values()])
    comm.sum_over_ranks(hits)
    return {name: percentages(row, model.num_classes) for name, row in zip(model.stages, hits, strict=True)}


def count_hits(scores: Tensor, labels: Tensor) -> Tensor:
    """How often the label is the highest score and among the five highest, and how many labels there are.

    Args:
        scores: ``(B, C)``.
        labels: ``(B,)``; images with negative ones do not count.

    Returns:
        ``(3,)`` int64.
    """
    right = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]  # (B, 5)
    return torch.stack([right[:, 0].sum(), right.sum(), (labels >= 0).sum()])


def percentages(hits: Tensor, num_classes: int) -> dict[str, Any]:
    """``top1`` and ``top5`` of :func:`count_hits` in percent; ``top5`` is None where it would always be 100."""
    top1, top5, total = hits.tolist()
    return dict(top1=100 * top1 / max(total, 1), top5=100 * top5 / max(total, 1) if num_classes > 5 else None)


def feature_loader(features: FeatureSet, batch_size: int, seed: int) -> DataLoader:
    """Shuffled batches of cached features; ``batch_size`` is that of all processes together, the last one may be smaller."""
    return DataLoader(_FeatureBatches(features), batch_size=None, sampler=_BatchSampler(features.labels, batch_size, seed))


def in_order(features: FeatureSet, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """All cached features and their labels, in batches."""
    for rows in torch.arange(len(features.labels)).split(batch_size):
        yield _FeatureBatches(features)[slice(int(rows[0]), int(rows[-1]) + 1)]


class _FeatureBatches(Dataset):
    def __init__(self, features: FeatureSet) -> None:
        self.features = features

    def __getitem__(self, rows: Tensor | slice) -> tuple[dict[str, Tensor], Tensor]:
        return {name: x[rows] for name, x in self.features.features.items()}, self.features.labels[rows]


class _BatchSampler(Sampler):
    """Rows of this process's share of every batch, in an order keyed by seed and epoch."""

    def __init__(self, labels: Tensor, batch_size: int, seed: int) -> None:
        self.labels, self.batch_size, self.seed, self.epoch = labels, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(len(self.labels), generator=generator).to(self.labels.device)
        return (rows[comm.rank() :: comm.world_size()] for rows in order.split(self.batch_size))
