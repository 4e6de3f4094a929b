"""Fine-tuning of the whole network on a labelled set: SimCLR's transfer setting (Chen et al., 2020, appendix B.8.1)."""

from __future__ import annotations

import math
from functools import partial

import torch

from pretrain.distributed import comm
from pretrain.distributed.sync_batchnorm import convert_batchnorm
from pretrain.eval.data import LabelledData
from pretrain.eval.features import PooledFeatures
from pretrain.eval.probes import Classifiers, Corrupt, StageResults, StateFile, train_on_images

MOMENTUM = 0.9


def fine_tuning(
    pooled: PooledFeatures, data: LabelledData, state: StateFile | None = None, *, epochs: int, batch_size: int, lr: float,
    weight_decay: float,
) -> tuple[StageResults, Corrupt]:
    """Trains the encoder and a fresh linear classifier on its last stage end to end.

    SGD with Nesterov momentum, and a cosine from the initial learning rate to 0, step by step. With several processes,
    batch norm takes its statistics over the global batch.

    Args:
        pooled: the encoder, which is changed.
        data: training and test set.
        state: where to save the training.
        epochs: how many.
        batch_size: images of a step, of all processes together.
        lr: initial learning rate.
        weight_decay: of all parameters.

    Raises:
        ValueError: there are fewer than two images of a batch for a process.
    """
    model = fine_tuned_classifier(pooled, data, batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, nesterov=True, weight_decay=weight_decay)
    # without a last batch that may be too small for batch norm
    return train_on_images(model, optimizer, partial(cosine, lr=lr, epochs=epochs), data, epochs, batch_size, state,
                           drop_last=True)


def fine_tuned_classifier(pooled: PooledFeatures, data: LabelledData, batch_size: int) -> Classifiers:
    """The encoder under a fresh classifier of its last stage, ready to be trained in as many processes as there are."""
    least, encoder, device = 2 * comm.world_size(), pooled.encoder, pooled.mean.device
    if batch_size < least:
        raise ValueError(f"batch size {batch_size} is too small to fine-tune in {comm.world_size()} process(es): batch norm "
                         f"needs at least 2 images per process, {least} in total")
    if comm.world_size() > 1:
        if device.type == "cpu":
            convert_batchnorm(encoder)
        else:
            encoder.convert_sync_batchnorm()
    last = PooledFeatures(encoder, pooled.stages[-1:], pooled.autocast)
    return Classifiers(last, last.widths, data.num_classes, data.seed).to(device)


def cosine(epoch: float, lr: float, epochs: int) -> float:
    """The learning rate in ``epoch``, on half a cosine from ``lr`` to 0."""
    return lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
