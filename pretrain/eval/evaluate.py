"""One evaluation from files to a result: loads the encoder, opens the data, runs a method, proves and records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from pretrain.distributed import comm
from pretrain.eval.data import load_labelled_data
from pretrain.eval.encoders import choose_stages, frozen, load_encoder, pretraining_image_size
from pretrain.eval.finetune import FineTuning
from pretrain.eval.results import (
    METRICS,
    accuracy_rows,
    data_protocol,
    evaluated,
    record_result,
    result_file,
    settings_of,
)
from pretrain.eval.session import DEFAULT_IMAGE_SIZE, Method, Session, check_above_zero, default_workers
from pretrain.results.store import EVALUATION, new_record


@dataclass(frozen=True)
class Readout:
    """What is evaluated on what.

    Attributes:
        file: an exported backbone, a training checkpoint, a bare state dict, or ``"random"``.
        encoder: name or config of the encoder, where the file does not say.
        source: name or config of an image source with labels.
        data_root: where it reads from.
        train_split: None for the source's own.
        test_split: None for the source's own.
        limit: number of training images in a class-balanced subset; None for all.
        stages: ``"all"`` or ``"last"``.
        image_size: side of the views in pixels; None for that of the pretraining's views, or 224 where it is not recorded.
        workers: processes that load images; None to choose by the number of processors.
        seed: of everything random, a random encoder included.
        device: of torch; ``"auto"`` is CUDA where there is one.
        out: file of the result; None to put it beside the checkpoint.
        resume: continue an interrupted run, and do not repeat a finished one of the same settings.
        autocast: ``"bfloat16"`` to run the encoder in that type, None for float32.
    """

    file: str
    source: str | Mapping
    data_root: str
    encoder: str | Mapping | None = None
    train_split: str | None = None
    test_split: str | None = None
    limit: int | None = None
    stages: str = "all"
    image_size: int | None = None
    workers: int | None = None
    seed: int = 0
    device: str = "auto"
    out: str | None = None
    resume: bool = False
    autocast: str | None = None

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 8:
            raise ValueError(f"image_size is {self.image_size}; at least 8 pixels are needed")
        if self.limit is not None:
            check_above_zero(limit=self.limit)
        for name, value in (("workers", self.workers or 0), ("seed", self.seed)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")

    @property
    def loading_workers(self) -> int:
        """Processes that load images."""
        return default_workers() if self.workers is None else self.workers


def read_out(readout: Readout, method: Method) -> dict[str, Any]:
    """Runs a method of evaluation and writes its record, in the first of the processes.

    Returns:
        The record as it is written, see :mod:`pretrain.results.store`; docs/readout.md explains its fields.

    Raises:
        ValueError: the encoder's file, the data or the options do not fit; or the result cannot be written, or would
            overwrite one of other settings; or a state file is in the way.
        RunFailedError: training diverged, or too many images cannot be decoded.
        EncoderChangedError: the encoder is not bit-identical after a method that must keep it.
    """
    device = find_device(readout.device)
    encoder, origin = load_encoder(readout.file, readout.encoder, readout.seed)
    stages = choose_stages(encoder, "last" if isinstance(method, FineTuning) else readout.stages)
    data = load_labelled_data(readout.source, readout.data_root, readout.train_split, readout.test_split, readout.limit,
                              readout.seed)
    identity = origin.pop("identity")
    out = Path(readout.out or result_file(method.kind, readout.file, identity["setting"]["encoder"], data.record,
                                          readout.seed))
    image_size = readout.image_size or choose_image_size(identity["setting"])
    protocol = {"name": method.kind, **method.protocol(), "image_size": image_size, "autocast": readout.autocast,
                "data": data_protocol(data.record)}
    record = new_record(
        EVALUATION, evaluated(identity, readout.seed), protocol, encoder_file=origin, data=data.record,
        data_root=str(Path(readout.data_root).resolve()), stages=list(stages), device=device.type)
    session = Session(encoder.to(device), stages, data, image_size, readout.loading_workers, readout.seed, device,
                      out.with_suffix(".state.pth"), settings_of(record), readout.resume, readout.autocast)

    def measure() -> dict[str, Any]:
        with frozen(encoder) if method.keeps_encoder else nullcontext():
            outcome = method.run(session)
        details = {stage: {key: value for key, value in found.items() if key not in METRICS}
                   for stage, found in outcome.stages.items()}
        return dict(rows=accuracy_rows(outcome.stages, data.record, method.kind), details=details,
                    corrupt=outcome.corrupt, images_per_s=round(outcome.images_per_s, 2),
                    earlier_s=outcome.earlier_s)

    record = record_result(out, record, readout.resume, measure)
    if comm.rank() == 0:
        session.state_file.unlink(missing_ok=True)
    return record


def choose_image_size(setting: Mapping[str, Any]) -> int:
    """Side of the views in pixels where the user names none: the pretraining's, or else the default; the log says which.

    Args:
        setting: of the pretraining, see :mod:`pretrain.results.method`.
    """
    size = pretraining_image_size(setting)
    why = "that of the pretraining's views" if size else "the default, as that of the pretraining's views is not recorded"
    size = size or DEFAULT_IMAGE_SIZE
    print_log(f"image size {size}, {why}; --image-size chooses another", logger="current")
    return size


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
