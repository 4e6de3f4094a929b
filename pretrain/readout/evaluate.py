"""One readout from files to a result: loads the encoder, opens the data, runs a method, proves and records."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from pretrain import distributed
from pretrain.readout.data import load_labelled_data
from pretrain.readout.encoders import choose_stages, frozen, load_encoder, pretraining_image_size
from pretrain.readout.finetune import FineTuning
from pretrain.readout.results import check_writable, finished_result, result_file, versions
from pretrain.readout.session import DEFAULT_IMAGE_SIZE, Method, Session, check_above_zero, default_workers
from pretrain.work_dir import git_revision, write_json


@dataclass(frozen=True)
class Readout:
    """What is read out on what.

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


def read_out(readout: Readout, method: Method) -> dict[str, Any]:
    """Runs a method of readout and writes its result, in the first of the processes.

    Returns:
        The result as it is written; docs/readout.md explains its fields.

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
    out = Path(readout.out or result_file(method.kind, readout.file, origin["encoder"], data.record, readout.seed))
    check_writable(out)
    image_size = readout.image_size or choose_image_size(origin["meta"])
    protocol = dict(method.protocol(), image_size=image_size, autocast=readout.autocast)
    settings = dict(kind=method.kind, data=data.record, protocol=protocol, encoder=origin, seed=readout.seed,
                    stages=list(stages))
    known = finished_result(out, settings)
    if known is not None and readout.resume:
        print_log(f"{out} is finished", logger="current")
        return known
    workers = default_workers() if readout.workers is None else readout.workers
    session = Session(encoder.to(device), stages, data, image_size, workers, readout.seed, device,
                      out.with_suffix(".state.pth"), settings, readout.resume, readout.autocast)
    started = time.perf_counter()
    with frozen(encoder) if method.keeps_encoder else nullcontext():
        outcome = method.run(session)
    record = {
        **settings,
        "data": {**data.record, "undecodable": outcome.undecodable},
        "stages": outcome.stages,
        "processes": distributed.world_size(),
        "device": device.type,
        "duration_s": round(time.perf_counter() - started + outcome.earlier_s, 3),
        "images_per_s": round(outcome.images_per_s, 2),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    if distributed.rank() == 0:
        write_json(out, record)
        session.state_file.unlink(missing_ok=True)
        print_log(f"result written to {out}", logger="current")
    return record


def choose_image_size(meta: Mapping[str, Any]) -> int:
    """Side of the views in pixels where the user names none: the pretraining's, or else the default; the log says which.

    Args:
        meta: the pretraining's record, see :func:`pretrain.record.pretraining_record`; may be empty.
    """
    size = pretraining_image_size(meta)
    why = "that of the pretraining's views" if size else "the default, as no record tells that of the pretraining's views"
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
