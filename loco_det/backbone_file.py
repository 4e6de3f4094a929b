"""The backbone file that an experiment starts from, checked before anything is trained."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from loco_det.evaluation.results import PretrainedBackbone
from loco_det.experiment_inputs import RANDOM_INIT
from pretrain.checkpoints import BackboneFile, load_into, read_backbone
from pretrain.cli import note
from pretrain.encoders import build_encoder

SUPERVISED = "supervised"  # the method whose files, torchvision's, have no record


def check_backbone(config: Config) -> PretrainedBackbone | None:
    """Reads and tries the backbone file, so that a wrong one fails now.

    Returns:
        What is known of it; None for random initialisation.

    Raises:
        ValueError: the file does not fit the encoder, or was trained by another rule, or for other epochs, than the config
            says.
    """
    if config.pretrained.method == RANDOM_INIT:
        return None
    path, spec = config.pretrained.checkpoint, config.model.backbone.encoder
    backbone = read_backbone(path)
    load_into(build_encoder(spec), backbone, expected=spec)
    rule = _rule(backbone)
    if rule is not None and rule != config.pretrained.method:
        raise ValueError(f"{path} was trained with {rule}, but the config's method is {config.pretrained.method}; its "
                         f"results would be filed under that: use configs/mask_rcnn_{rule}_*.py or set pretrained.method "
                         "with --cfg-options")
    epochs, wanted = backbone.meta.get("epoch"), config.pretrained.get("epochs")
    if None not in (epochs, wanted) and epochs != wanted:
        raise ValueError(f"{path} was trained for {epochs} epochs, but the config says {wanted}; its results would be filed "
                         f"under {wanted}: use another config or set pretrained.epochs={epochs} with --cfg-options")
    if rule is None and config.pretrained.method != SUPERVISED:
        note(f"{path} does not say how it was trained; its results are filed under {config.pretrained.method}")
    return PretrainedBackbone(str(path), backbone.sha256, rule, epochs=wanted if epochs is None else epochs)


def encoder_name(config: Config) -> str:
    """The registered name of the config's encoder."""
    spec = config.model.backbone.encoder
    return spec if isinstance(spec, str) else spec["type"]


def _rule(backbone: BackboneFile) -> str | None:
    rule: Any = backbone.meta.get("rule")
    name = rule.get("type") if isinstance(rule, dict) else rule
    return name if isinstance(name, str) else None
