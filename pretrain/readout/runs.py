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

KINDS = {"linear": "linear", "linear_cached": "linear (cached features)", "linear_adam": "linear (Adam)", "knn": "kNN",
         "finetune": "fine-tuned"}
DATA_KEYS = ("source", "train_split", "test_split", "train_images", "test_images", "classes")  # beside the data set's name
DATA_SETS = {"imagenet": "ImageNet", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "stl10": "STL-10",
             "fashion_mnist": "Fashion-MNIST"}
READOUT_SUFFIX = ".readout"  # of the folders beside checkpoints, see pretrain.readout.results.result_file
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
        """Name of the data set: as the field spells it for its standard files, otherwise with the source it came from."""
        name, source = dataset_name(self.data), self.data["source"]
        return DATA_SETS.get(source) or (name if name == source else f"{name} ({source})")

    @property
    def setting(self) -> dict[str, Any]:
        """Part of the data and protocol of the readout: what must be equal where results are averaged."""
        data = {key: self.data[key] for key in (*DATA_KEYS, "fingerprint") if key in self.data}
        return {"data": data, "protocol": dict(self.protocol)}

    @property
    def encoder_identity(self) -> str:
        """What readouts of one encoder share, and they alone.

        A backbone and the checkpoint that it was exported from are the same encoder, whatever the hashes of their files.
        """
        if self.record:
            told = {key: self.record.get(key) for key in ("config_sha256", "git_revision", "epoch", "iter")}
        else:
            told = {key: self.encoder.get(key) for key in ("sha256", "encoder", "seed")}
        return json.dumps(told, sort_keys=True)

    @property
    def identity(self) -> str:
        """What copies of a result share, and they alone."""
        return json.dumps([self.kind, self.data_set, self.setting, self.encoder_identity, self.seed], sort_keys=True)

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """What was trained beside the recipe; None without pretraining, or where the record is older than that."""
        settings = self.record.get("settings")
        return None if settings is None else {**settings, "num_images": self.record.get("num_images")}

    @property
    def repetition(self) -> str:
        """Which of a pretraining's repetitions the encoder is from: told by the seed, where the record has it."""
        seed = self.record.get("seed")
        return self.encoder_identity if self.settings is None or seed is None else f"seed {seed}"

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
        return initialisation(self.encoder)

    @property
    def epochs(self) -> int | None:
        """Epochs of the whole pretraining schedule; None without pretraining."""
        return self.record.get("max_epochs")

    @property
    def complete(self) -> bool:
        """Whether the encoder is from the end of its pretraining schedule."""
        return not self.record or self.record["epoch"] >= self.record["max_epochs"]


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[ReadoutRun], list[str]]:
    """Reads readout results: files as they are given, and of folders every one below.

    JSON files of other tools in folders are passed over, and so is what cannot be decoded.

    Returns:
        Results in the order of the arguments, those of a folder sorted by path; each file once. And a line for each file
        that was passed over although it lies in a ``*.readout/`` folder.

    Raises:
        ReadoutFileError: a path does not exist, a result is damaged, a file that is given is no readout result, or there is
            none at all.
    """
    runs: dict[Path, ReadoutRun] = {}
    passed_over: dict[Path, str] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*.json")):
                try:
                    record = read_json(file)
                except ReadoutFileError as error:
                    if any(folder.suffix == READOUT_SUFFIX for folder in file.resolve().parents):
                        passed_over[file.resolve()] = f"passed over: {error}"
                    continue
                if _is_readout(record):
                    runs.setdefault(file.resolve(), _run_of(file, record))
        elif path.is_file():
            record = read_json(path)
            if not _is_readout(record):
                raise ReadoutFileError(f"{path} is no readout result; pass what tools/linear_eval.py or tools/knn_eval.py "
                                       "wrote, or a folder above")
            runs.setdefault(path.resolve(), _run_of(path, record))
        else:
            raise ReadoutFileError(f"{path} does not exist; pass a readout result, or a folder above some")
    if not runs:
        raise ReadoutFileError("; ".join([f"no readout results below {', '.join(map(str, paths))}; run tools/linear_eval.py "
                                          "or tools/knn_eval.py first", *passed_over.values()]))
    return list(runs.values()), list(passed_over.values())


def read_json(path: Path) -> Any:
    """The content of a JSON file; None for a log of one JSON object a line, such as mmengine writes.

    Raises:
        ReadoutFileError: the file cannot be read or decoded.
    """
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
            data=dict(record["data"], **{key: record["data"][key] for key in ("root", *DATA_KEYS)}),
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


def initialisation(encoder: Mapping[str, Any]) -> Literal["random", "supervised"] | None:
    """What an encoder without pretraining of ours was; None where its origin (``load_encoder``'s) does not tell."""
    if encoder.get("file") == RANDOM:
        return "random"
    sha256 = encoder.get("sha256") or ""
    return "supervised" if not encoder.get("meta") and sha256[:8] in _supervised_weights() else None


@lru_cache
def _supervised_weights() -> frozenset[str]:
    """Beginnings of the SHA-256 of torchvision's ResNets trained with labels, which are parts of their files' names."""
    from torchvision.models import get_model_weights

    urls = [weights.url for name in ("resnet18", "resnet34", "resnet50") for weights in get_model_weights(name)]
    return frozenset({PAPERS_SUPERVISED_WEIGHTS, *(re.search(r"-([0-9a-f]{8})\.pth$", url)[1] for url in urls)})
