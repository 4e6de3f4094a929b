"""Training of classifiers on images, epoch by epoch: resumable, and alike in one process and in many."""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from pretrain.data.dataset import check_corrupt
from pretrain.distributed import comm
from pretrain.engine.checkpoints import load_checkpoint
from pretrain.errors import RunFailedError
from pretrain.eval.accuracy import AccuracyCounter
from pretrain.eval.data import NO_LABEL, CentreView, TrainView, evaluation_loader, training_loader
from pretrain.eval.results import check_same_settings
from pretrain.eval.session import Outcome, Session


class Classifiers(nn.Module, ABC):
    """Base of what is trained here: ``forward(images)`` -> ``{stage: logits (B, C)}``.

    Attributes:
        stages: names of the stages.
        num_classes: the number of classes.
    """

    stages: tuple[str, ...]
    num_classes: int

    @abstractmethod
    def trained(self) -> nn.Module:
        """The part that the optimizer changes and that a state file keeps."""


@dataclass
class TrainingState:
    """Where a training stands.

    Attributes:
        epoch: how many epochs are done.
        train_top1: accuracy in percent over the last epoch's augmented views by stage.
        corrupt: how many training images could not be decoded.
        images: how many images have been trained on, over all epochs and processes.
        seconds: how long that took.
        earlier_s: how much of it was another run's, which this one has resumed.
    """

    epoch: int = 0
    train_top1: dict[str, float] = field(default_factory=dict)
    corrupt: int = 0
    images: int = 0
    seconds: float = 0.0
    earlier_s: float = 0.0


def linear_head(width: int, num_classes: int, seed: int) -> nn.Linear:
    """A linear classifier initialised as MoCo's: weights normal with deviation 0.01, biases 0.

    The weights depend on the seed and the shape alone, not on what else is trained.
    """
    head = nn.Linear(width, num_classes)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
        head.bias.zero_()
    return head


def train_and_test(
    model: Classifiers,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[float], float],
    session: Session,
    loader: DataLoader,
    epochs: int,
) -> Outcome:
    """Trains for the epochs that are left, saving the state after each, and measures the last epoch's classifiers.

    Args:
        model: on the session's device.
        optimizer: of what ``model`` trains.
        learning_rate: the learning rate by epochs done, a fraction within an epoch.
        session: what it is about.
        loader: of the training set.
        epochs: how many in all.

    Raises:
        ValueError: there is a state file that is not to be resumed, or one of other settings.
        RunFailedError: training diverged, or too many images cannot be decoded.
    """
    state = _restore(model, optimizer, session)
    test_set = session.data.test_views(CentreView(session.image_size))
    test_loader = evaluation_loader(test_set, loader.batch_size, session.workers)
    if state.epoch == 0:
        for _ in _with_progress(test_loader, "decoding the test set"):  # finds out before all epochs what cannot be decoded
            pass
        check_corrupt(test_set)
    while state.epoch < epochs:
        _train_epoch(model, optimizer, learning_rate, loader, state, session)
        _save(model, optimizer, session, state)
    tested = evaluate(model, test_loader, session.device)
    stages = {name: dict(top1=top1, top5=top5, train_top1=state.train_top1[name]) for name, (top1, top5) in tested.items()}
    corrupt = dict(train=state.corrupt, test=len(check_corrupt(test_set)))
    return Outcome(stages, state.images / max(state.seconds, 1e-9), corrupt, state.earlier_s)


@torch.no_grad()
def evaluate(
    model: Classifiers, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> dict[str, tuple[float, float | None]]:
    """Top-1 and top-5 accuracy in percent by stage; every process passes its share of the images."""
    model.eval()
    counter = AccuracyCounter(model.stages, model.num_classes, device)
    for images, labels in _with_progress(batches, "testing"):
        counter.add(model(images.to(device, non_blocking=True)), labels.to(device))
    return counter.percentages()


def _train_epoch(
    model: Classifiers,
    optimizer: torch.optim.Optimizer,
    learning_rate: Callable[[float], float],
    loader: DataLoader,
    state: TrainingState,
    session: Session,
) -> None:
    model.train()
    loader.sampler.set_epoch(state.epoch)
    counter = AccuracyCounter(model.stages, model.num_classes, session.device)
    totals, started = torch.zeros(3, dtype=torch.float64, device=session.device), time.perf_counter()
    for step, (images, labels) in enumerate(_with_progress(loader, f"epoch {state.epoch + 1}")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.epoch + step / len(loader))
        labels = labels.to(session.device)
        logits = model(images.to(session.device, non_blocking=True))
        counted = (labels != NO_LABEL).sum()
        losses = [F.cross_entropy(x, labels, ignore_index=NO_LABEL, reduction="sum") for x in logits.values()]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        _mean_gradients(model.trained(), counted)
        optimizer.step()
        totals += torch.stack([torch.stack(losses).detach().sum(), counted, counted.new_tensor(len(labels))])
        counter.add(logits, labels)
    loss_sum, trained_images, images = comm.sum_over_ranks(totals).tolist()  # so that all processes fail or none
    mean_loss = loss_sum / max(trained_images, 1) / len(model.stages)
    check_finite(model.trained(), mean_loss, state.epoch + 1)
    state.train_top1 = {name: top1 for name, (top1, _) in counter.percentages().items()}
    state.seconds += time.perf_counter() - started
    state.images += int(images)
    if state.epoch == 0:
        state.corrupt = len(check_corrupt(loader.dataset))
    state.epoch += 1
    accuracies = ", ".join(f"{name} {top1:.2f}" for name, top1 in state.train_top1.items())
    print_log(f"epoch {state.epoch}: loss {mean_loss:.4f}, training accuracy in percent: {accuracies}", logger="current")


def check_finite(trained: nn.Module, mean_loss: float, epoch: int) -> None:
    """Looks at the loss and at the weights that the last step left, whose loss nobody has computed.

    Their squares are looked at: logits of weights that large are beyond all reason even where they do not overflow.

    Raises:
        RunFailedError: one is not finite.
    """
    norms = torch.stack([value.square().sum() for value in trained.state_dict().values() if value.is_floating_point()])
    if not (math.isfinite(mean_loss) and norms.isfinite().all()):
        raise RunFailedError(f"training diverged in epoch {epoch}: the mean loss is {mean_loss:g} and the largest squared "
                             f"norm of a weight {norms.max().item():g}; lower the learning rate with --lr")


def _mean_gradients(trained: nn.Module, count: Tensor) -> None:
    """Makes gradients of a sum over this process's images into those of the mean over all processes' images.

    Args:
        trained: holds the gradients.
        count: how many images this process had.
    """
    grads = [parameter.grad for parameter in trained.parameters() if parameter.grad is not None]
    if comm.world_size() > 1:
        bucket = torch.cat([*(grad.reshape(-1) for grad in grads), count.to(grads[0].dtype).view(1)])
        *parts, count = comm.sum_over_ranks(bucket).split([*(grad.numel() for grad in grads), 1])
        torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
    count = count.clamp_min(1)
    for grad in grads:
        grad /= count


def _save(model: Classifiers, optimizer: torch.optim.Optimizer, session: Session, state: TrainingState) -> None:
    if session.state_file is None or comm.rank() > 0:
        return
    session.state_file.parent.mkdir(parents=True, exist_ok=True)
    partial = session.state_file.with_name(session.state_file.name + ".partial")
    torch.save({
        "trained": model.trained().state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": state.epoch,
        "train_top1": state.train_top1,
        "corrupt": state.corrupt,
        "images": state.images,
        "seconds": state.seconds,
        "settings": json.dumps(session.settings),
    }, partial)
    partial.replace(session.state_file)


def _restore(model: Classifiers, optimizer: torch.optim.Optimizer, session: Session) -> TrainingState:
    file = session.state_file
    if file is None or not file.exists():
        return TrainingState()
    if not session.resume:
        raise ValueError(f"{file} is of an unfinished run; pass --resume to continue it, or delete it")
    content = load_checkpoint(file)
    check_same_settings(json.loads(content["settings"]), session.settings, f"{file} is of an unfinished run")
    model.trained().load_state_dict(content["trained"])
    optimizer.load_state_dict(content["optimizer"])
    print_log(f"continuing {file} after epoch {content['epoch']}", logger="current")
    return TrainingState(content["epoch"], content["train_top1"], content["corrupt"], content["images"],
                         content["seconds"], earlier_s=content["seconds"])


def _with_progress(batches: Iterable, name: str) -> Iterable:
    disable = None if comm.rank() == 0 else True  # None: shown only where stderr is a terminal
    return tqdm(batches, desc=name, unit="batch", leave=False, file=sys.stderr, disable=disable)


def make_training_loader(session: Session, batch_size: int, drop_last: bool = False) -> DataLoader:
    """Batches of augmented views of the session's training set; ``batch_size`` is that of all processes together."""
    dataset = session.data.train_views(TrainView(session.image_size))
    return training_loader(dataset, batch_size, session.workers, session.seed, drop_last)
