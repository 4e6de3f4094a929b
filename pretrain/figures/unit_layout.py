"""What there is to show of a learning rule, for pictures and text: its units side by side, each with its head."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings
from torch import nn

from pretrain.encoders import encoder_label
from pretrain.engine.checkpoints import RECORD_KEY, load_checkpoint
from pretrain.engine.cli import load_config
from pretrain.engine.work_dir import RECORD_NAME
from pretrain.heads import ProjectionHead
from pretrain.learner import LocalContrastiveLearner
from pretrain.local.units import LocalUnit, Stages, untrained_blocks
from pretrain.results.method import Method, epochs_per_unit, learner_options, method_of_learner, shown_method
from pretrain.results.store import read_record

SHOWN_OPTIONS = (  # of the learner
    "encoder", "rule", "head", "objective", "allow_untrained", "soft_sharing", "method_name")
Effect = Literal["updates", "passes", "copy"]


@dataclass(frozen=True)
class UnitLayout:
    """A local unit as it is shown.

    Attributes:
        unit: its blocks.
        name: as in the training log's ``loss_<name>``.
        lane: beside the blocks, counted from 0; units in one lane have no block in common.
        copied: with soft sharing, the number of its last blocks of which it trains a copy of its own.
        head_convs: the convolutional part of its head in words; empty where there is none.
        head_widths: features that every linear layer of the head takes, and at last those that it yields.
    """

    unit: LocalUnit
    name: str
    lane: int
    copied: int
    head_convs: str
    head_widths: tuple[int, ...]

    @property
    def head(self) -> str:
        """The head in words, with the widths of its linear layers."""
        return ", ".join(filter(None, [self.head_convs, f"MLP {'-'.join(map(str, self.head_widths))}"]))

    @property
    def head_kind(self) -> str:
        """The head in words, without the widths, which grow with the encoder's."""
        return " + ".join(filter(None, [self.head_convs, f"{len(self.head_widths) - 1}-layer MLP"]))

    def effect(self, block: int) -> Effect:
        """What the unit's gradient does to a block that it reaches."""
        if block >= self.unit.end - self.copied:
            return "copy"
        return "updates" if self.unit.trains(block) else "passes"


@dataclass(frozen=True)
class RuleLayout:
    """A learning rule on an encoder as it is shown.

    Attributes:
        name: of the rule, which is the method's, or what tells it from others beside it.
        method: whose colour it has.
        encoder: the encoder as tables spell it.
        stages: the encoder's stages.
        units: from the bottom up.
        untrained: blocks that no unit updates.
    """

    name: str
    method: Method
    encoder: str
    stages: Stages
    units: Sequence[UnitLayout]
    untrained: Sequence[int]

    @property
    def num_blocks(self) -> int:
        """Blocks of the encoder."""
        return max(end for _, end in self.stages.values())

    @property
    def num_lanes(self) -> int:
        """Lanes that the units need side by side."""
        return 1 + max(shown.lane for shown in self.units)


def rule_layout(model: Mapping[str, Any]) -> RuleLayout:
    """Lays out the learning rule of a model.

    Args:
        model: options of :class:`~pretrain.learner.LocalContrastiveLearner`, and where there are any ``epochs_per_unit``;
            ``source`` says where they come from, for errors.

    Raises:
        ValueError: the learner refuses them, as in training.
    """
    options = {key: model[key] for key in SHOWN_OPTIONS if model.get(key) is not None}
    try:
        learner = LocalContrastiveLearner(**options)
    except ValueError as error:
        raise ValueError(f"{model['source']}: {error}" if "source" in model else str(error)) from error
    copies = [0] * len(learner.units)
    if learner.soft_sharing is not None:
        copies[:len(learner.soft_sharing.copies)] = map(len, learner.soft_sharing.copies)
    units = [
        UnitLayout(unit, name, lane, copied, *_described(head, model.get("head") or {}))
        for unit, name, lane, copied, head in zip(
            learner.units, learner.unit_names, _lanes(learner.units), copies, learner.heads, strict=True)
    ]
    untrained = untrained_blocks(learner.units, learner.encoder.num_blocks)
    method = shown_method(method_of_learner(learner, model.get("epochs_per_unit")))
    return RuleLayout(method.label, method, encoder_label(model["encoder"]), learner.encoder.stages, units, untrained)


def read_model(path: str | Path) -> dict[str, Any]:
    """What a pretraining trains, from a config file, a work directory, a checkpoint or an exported backbone.

    Returns:
        What :func:`rule_layout` takes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none of these, or does not say how it was pretrained.
    """
    path = Path(path)
    if path.suffix == ".py":
        keys = ("model.rule", "model.encoder")
        config = load_config(str(path), Namespace(cfg_options=None, work_dir=None), default_work_dir="", needed_keys=keys)
        return {"source": str(path), **model_of_config(config)}
    content = load_checkpoint(path) if path.is_file() else {}
    record = content.get(RECORD_KEY) or content.get("meta") or {}
    if path.is_dir():
        record = read_record(path / RECORD_NAME).content
    if "method" not in record:
        raise ValueError(f"{path} does not say how it was pretrained; pass a work directory or an epoch_*.pth of "
                         "tools/pretrain.py, a backbone of tools/export_backbone.py, or a config")
    return {"source": str(path), **learner_options(record["method"], record["setting"]),
            "epochs_per_unit": record["method"]["epochs_per_unit"]}


def model_of_config(config: Config) -> dict[str, Any]:
    """What :func:`rule_layout` takes, of a pretraining config; what the config names is registered."""
    plain = config.to_dict()
    import_modules_from_strings(**plain.get("custom_imports", {"imports": []}))
    return {**plain["model"], "epochs_per_unit": epochs_per_unit(plain)}


def _lanes(units: Sequence[LocalUnit]) -> list[int]:
    """For every unit the first lane in which all units below have ended."""
    ends: list[int] = []  # of the last unit in every lane
    lanes = []
    for unit in units:
        lane = next((index for index, end in enumerate(ends) if end <= unit.start), len(ends))
        ends[lane:lane + 1] = [unit.end]
        lanes.append(lane)
    return lanes


def _described(head: nn.Module, options: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """``head_convs`` and ``head_widths`` of :class:`UnitLayout`."""
    head = next(module for module in head.modules() if isinstance(module, ProjectionHead))  # a copied stage may precede it
    linear = [layer for layer in head.mlp if isinstance(layer, nn.Linear)]
    convs, count = "", len(head.convs)
    if count:
        convs = "3×3 conv" if options["conv_blocks"] == "plain_conv" else f"{count} residual block{'s' * (count > 1)}"
        convs += "" if options.get("downsample", True) else " without downsampling"
    return convs, (*(layer.in_features for layer in linear), linear[-1].out_features)
