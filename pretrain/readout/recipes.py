"""Which row of the paper's tables a pretraining is: told by what was trained, never by the names of files.

A recipe is what the rows of the tables differ in: the encoder, the local units, the decoders and soft sharing. It is in a
normal form, so that a rule by its name and the same list of units, or an option left out and its default, are equal.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pretrain.decoders import Decoder
from pretrain.encoders import ENCODERS, build_encoder
from pretrain.local_units import LocalUnit, build_units
from pretrain.readout.published import PaperRow

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ARCHITECTURES = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "presnet50": "PResNet-50",
    "shufflenet_v2_50": "ShuffleNet v2-50",
}


@dataclass(frozen=True)
class Recipe:
    """What tells the rows of the tables apart, in normal form.

    Attributes:
        encoder: the encoder's config as JSON, without defaults.
        units: the local units in ascending order.
        decoder: the decoders' options as JSON, without defaults and what has no effect.
        soft_sharing: coefficient of the penalty; None where stages are shared themselves.
    """

    encoder: str
    units: tuple[LocalUnit, ...]
    decoder: str
    soft_sharing: float | None

    def __str__(self) -> str:
        shared = "" if self.soft_sharing is None else f", soft sharing with coefficient {self.soft_sharing:g}"
        return f"units {' '.join(map(str, self.units))}, decoder {self.decoder}{shared} on {architecture(self.encoder)}"


def recipe_of_model(model: Mapping[str, Any], encoder: str | Mapping) -> Recipe:
    """The recipe of a learner's config, on an encoder of choice.

    Args:
        model: options of :class:`~pretrain.learner.LocalContrastiveLearner`, or a pretraining record, which has the same.
        encoder: name, config, or config as JSON of the encoder.

    Raises:
        ValueError: encoder or rule are unknown, or do not fit each other.
    """
    spec = encoder_spec(encoder)
    units = tuple(build_units(model["rule"], encoder_stages(spec), allow_untrained=True))
    sharing = model.get("soft_sharing")
    coefficient = None if sharing is None else float(sharing["coefficient"])
    return Recipe(spec, units, _decoder_spec(model.get("decoder") or {}), coefficient)


def recipe_of_record(record: Mapping[str, Any]) -> Recipe:
    """The recipe of a pretraining, from the record in its checkpoint.

    Raises:
        ValueError: the record lacks what rows are told apart by, is of a sequential training, which no table has, or does
            not resolve.
    """
    lacking = [key for key in ("rule", "encoder", "max_epochs", "epoch") if key not in record]
    if lacking:  # records without max_epochs are from before decoders were recorded
        raise ValueError(f"its pretraining record lacks {', '.join(lacking)}: it is of an older version")
    if record.get("epochs_per_unit") is not None:
        raise ValueError("its units were trained one after the other, which no row is")
    try:
        return recipe_of_model(record, record["encoder"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"its pretraining record does not resolve ({type(error).__name__}: {error})") from error


def row_recipe(row: PaperRow, encoder: str | Mapping | None = None) -> Recipe | None:
    """The recipe of a row, by default with the paper's encoder; None where it has none on that encoder."""
    if row.config is None:
        return None
    model = _model_of(row.config)
    if encoder is None:
        return recipe_of_model(model, row_encoder(row))
    try:
        return recipe_of_model(model, encoder)
    except ValueError:  # such as sharing more blocks than a stage has
        return None


def row_encoder(row: PaperRow) -> str | None:
    """The paper's encoder of a row, in the form of :func:`encoder_spec`; None for rows that are only quoted."""
    encoder = row.encoder or (_model_of(row.config)["encoder"] if row.config else None)
    return None if encoder is None else encoder_spec(encoder)


def encoder_spec(encoder: str | Mapping) -> str:
    """An encoder's config as JSON with sorted keys, without options at their defaults.

    Raises:
        ValueError: no encoder has that name.
    """
    if isinstance(encoder, str):
        encoder = json.loads(encoder) if encoder.startswith("{") else {"type": encoder}
    make = ENCODERS.module_dict.get(encoder.get("type"))
    if make is None:
        raise ValueError(f"its encoder {encoder.get('type')!r} is none of {', '.join(sorted(ENCODERS.module_dict))}")
    return json.dumps(_without_defaults(encoder, make), sort_keys=True)


@lru_cache
def encoder_stages(spec: str) -> dict[str, tuple[int, int]]:
    """The stages of an encoder given as by :func:`encoder_spec`.

    Raises:
        ValueError: its options do not fit.
    """
    with torch.device("meta"):  # no memory, no initialisation
        return build_encoder(json.loads(spec)).stages


def architecture(spec: str) -> str:
    """How tables spell an encoder given as by :func:`encoder_spec`."""
    options = json.loads(spec)
    name = options.pop("type")
    if name == "TimmEncoder":
        name = options.pop("name", name)
    told = ", ".join(f"{key}={value}" for key, value in options.items())
    return ARCHITECTURES.get(name, name) + (f" ({told})" if told else "")


@lru_cache
def _model_of(config: str) -> dict[str, Any]:
    from mmengine.config import Config

    return Config.fromfile(str(CONFIGS / config), import_custom_modules=False).model.to_dict()


def _decoder_spec(options: Mapping[str, Any]) -> str:
    kept = _without_defaults(options, Decoder)
    if kept.get("conv_blocks") in (None, "network"):  # nothing there, or blocks that downsample as the encoder's do
        kept.pop("downsample", None)
    return json.dumps(kept, sort_keys=True)


def _without_defaults(options: Mapping[str, Any], make: Callable) -> dict[str, Any]:
    parameters = inspect.signature(make).parameters
    return {key: value for key, value in options.items() if key not in parameters or value != parameters[key].default}
