"""The backbone that an experiment starts from: what was trained, and whether its file fits, before any training."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from loco_det.experiment.inputs import RANDOM_INIT, use_encoder
from pretrain.encoders import build_encoder
from pretrain.engine.checkpoints import BackboneFile, load_into, read_backbone
from pretrain.engine.cli import note
from pretrain.results.method import SUPERVISED, backbone_identity, random_identity


def check_backbone(config: Config) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Reads and tries the backbone file, so that a wrong one fails now.

    A config that takes any file gets the file's encoder (in place).

    Returns:
        The identity of the pretraining (:mod:`pretrain.results.method`); and of the
        file ``path``, ``sha256`` and ``argv``, the command line that exported it, None where the file does not say. Of
        random initialisation there is no file.

    Raises:
        ValueError: the file does not fit the encoder, or was trained by another rule than the config's.
    """
    method, file = config.pretrained.method, None
    if method == RANDOM_INIT:
        identity = random_identity(_encoder(config), None)
    else:
        backbone = read_backbone(config.pretrained.checkpoint)
        use_encoder(config, backbone.encoder)
        load_into(build_encoder(_encoder(config)), backbone, expected=_encoder(config))
        _check_rule(backbone, method)
        source = SUPERVISED if method == SUPERVISED else "file"
        identity = backbone_identity(backbone.meta, backbone.path, backbone.sha256, _encoder(config), source)
        file = dict(path=str(backbone.path), sha256=backbone.sha256, argv=backbone.meta.get("argv"))
        _note_differences(config, backbone, identity)
    return identity, file


def _encoder(config: Config) -> Any:
    return config.model.backbone.to_dict()["encoder"]


def _rule(backbone: BackboneFile) -> str | None:
    """The type of the learning rule that trained a file; None where it does not say."""
    return backbone.meta.get("method", {}).get("rule", {}).get("type")


def _check_rule(backbone: BackboneFile, method: str | None) -> None:
    rule = _rule(backbone)
    if None not in (rule, method) and rule != method:
        raise ValueError(f"{backbone.path} was trained with the rule {rule}, but the config is one for {method}; use a "
                         "config that takes any backbone file, such as configs/mask_rcnn_coco.py")


def _note_differences(config: Config, backbone: BackboneFile, identity: dict[str, Any]) -> None:
    """Says where results are filed under something else than the config's name promises."""
    epochs, wanted = backbone.meta.get("epoch"), config.pretrained.get("epochs")
    if _rule(backbone) is None and config.pretrained.method != SUPERVISED:
        note(f"{backbone.path} does not say how it was trained; results are filed under {identity['method']['label']}")
    elif None not in (epochs, wanted) and epochs != wanted:
        note(f"{backbone.path} was trained for {epochs} epochs, not the {wanted} of the config; results are filed under "
             f"{epochs}")
