"""Readout results as the tables need them: found in folders, read, and checked."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from pretrain.readout.encoders import RANDOM
from pretrain.readout.recipes import encoder_spec
from pretrain.readout.results import dataset_name

KINDS = {"linear": "linear", "linear_cached": "linear (cached features)", "knn": "kNN", "finetune": "fine-tuned"}
DATA_KEYS = ("train_split", "test_split", "train_images", "test_images", "classes")  # beside the data set's name
DATA_SETS = {"imagenet": "ImageNet", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10",
             "fashion_mnist": "Fashion-MNIST"}
PAPERS_SUPERVISED_WEIGHTS = "19c8e357"  # resnet50-19c8e357.pth of torchvision (LoCo, footnote 1)


class ReadoutFileError(ValueError):
    """Readout results that are missing or cannot be used; the message names file, reason and mend."""


@dataclass(frozen=True, eq=False)
class ReadoutRun:
    """One encoder read out once.

    Attributes:
        source: the file.
        kind: a key of :data:`KINDS`.
        data: data set and splits, see :func:`~pretrain.readout.data.load_labelled_data`.
        accuracies: top-1 accuracy in percent of every stage that was read out, from the bottom up.
        protocol: how it was read out.
        encoder: which encoder it was and whence, see :func:`~pretrain.readout.encoders.load_encoder`.
        seed: of the readout.
    """

    source: Path
    kind: str
    data: Mapping[str, Any]
    accuracies: Mapping[str, float]
    protocol: Mapping[str, Any]
    encoder: Mapping[str, Any]
    seed: int | None

    @property
    def data_set(self) -> str:
        """Name of the data set, of the field's standard ones as it is spelled."""
        name = dataset_name(self.data)
        return DATA_SETS.get(name, name)

    @property
    def setting(self) -> dict[str, Any]:
        """Part of the data and protocol of the readout: what must be equal where results are averaged."""
        return {"data": {key: self.data[key] for key in DATA_KEYS}, "protocol": dict(self.protocol)}

    @property
    def identity(self) -> str:
        """What copies of a result share, and they alone.

        A backbone and the checkpoint that it was exported from are the same encoder, whatever the hashes of their files.
        """
        pretraining = [self.record.get(key) for key in ("config_sha256", "epoch", "iter")] if self.record else None
        encoder = pretraining or [self.encoder.get("sha256"), self.encoder["encoder"]]
        return json.dumps([self.kind, self.data_set, self.setting, encoder, self.seed], sort_keys=True)

    @property
    def record(self) -> Mapping[str, Any]:
        """The pretraining record; empty where there was no pretraining of ours."""
        return self.encoder.get("meta") or {}

    @cached_property
    def encoder_spec(self) -> str:
        """The encoder's config, see :func:`pretrain.readout.recipes.encoder_spec`.

        Raises:
            ValueError: no encoder has that name.
        """
        return encoder_spec(self.encoder["encoder"])

    @property
    def initialisation(self) -> Literal["random", "supervised"] | None:
        """What an encoder without pretraining of ours was; None where the result does not tell."""
        if self.encoder.get("file") == RANDOM:
            return "random"
        sha256 = self.encoder.get("sha256") or ""
        return "supervised" if not self.record and sha256[:8] in _supervised_weights() else None

    @property
    def epochs(self) -> int | None:
        """Epochs of the whole pretraining schedule; None without pretraining."""
        return self.record.get("max_epochs")

    @property
    def complete(self) -> bool:
        """Whether the encoder is from the end of its pretraining schedule."""
        return not self.record or self.record["epoch"] >= self.record["max_epochs"]


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[ReadoutRun]:
    """Reads readout results: files as they are given, and of folders every one below.

    JSON files of other tools in folders are passed over.

    Returns:
        Results in the order of the arguments, those of a folder sorted by path; each file once.

    Raises:
        ReadoutFileError: a path does not exist, a file is damaged or is no readout result, or there is none at all.
    """
    runs: dict[Path, ReadoutRun] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*.json")):
                record = _read_json(file)
                if _is_readout(record):
                    runs.setdefault(file.resolve(), _run_of(file, record))
        elif path.is_file():
            record = _read_json(path)
            if not _is_readout(record):
                raise ReadoutFileError(f"{path} is no readout result; pass what tools/linear_eval.py or tools/knn_eval.py "
                                       "wrote, or a folder above")
            runs.setdefault(path.resolve(), _run_of(path, record))
        else:
            raise ReadoutFileError(f"{path} does not exist; pass a readout result, or a folder above some")
    if not runs:
        raise ReadoutFileError(f"no readout results below {', '.join(map(str, paths))}; run tools/linear_eval.py or "
                               "tools/knn_eval.py first")
    return list(runs.values())


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None for a log of one JSON object a line, such as mmengine writes."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReadoutFileError(f"{path} cannot be read ({error}); check its permissions or leave it out") from error
    try:
        return json.loads(text)
    except ValueError as error:
        try:
            json.loads(text.strip().partition("\n")[0])
            return None
        except ValueError:
            raise ReadoutFileError(f"{path} is not JSON ({error}); read the encoder out again or remove the file") from error


def _is_readout(record: Any) -> bool:
    return isinstance(record, dict) and record.get("kind") in KINDS and "stages" in record


def _run_of(path: Path, record: Mapping[str, Any]) -> ReadoutRun:
    try:
        return ReadoutRun(
            source=path,
            kind=record["kind"],
            data={key: record["data"][key] for key in ("source", "root", *DATA_KEYS)},
            accuracies={stage: _percentage(result["top1"]) for stage, result in record["stages"].items()},
            protocol=dict(record["protocol"]),
            encoder=dict(record["encoder"], encoder=record["encoder"]["encoder"]),
            seed=record.get("seed"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReadoutFileError(f"{path} is a damaged readout result ({type(error).__name__}: {error}); read the encoder out "
                               "again, or remove the file") from error


def _percentage(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 100:
        raise ValueError(f"top1 is {value!r}, not a percentage")
    return float(value)


@lru_cache
def _supervised_weights() -> frozenset[str]:
    """Beginnings of the SHA-256 of torchvision's ResNets trained with labels, which are parts of their files' names."""
    from torchvision.models import get_model_weights

    urls = [weights.url for name in ("resnet18", "resnet34", "resnet50") for weights in get_model_weights(name)]
    return frozenset({PAPERS_SUPERVISED_WEIGHTS, *(re.search(r"-([0-9a-f]{8})\.pth$", url)[1] for url in urls)})
