"""Encoders: each a sequence of blocks with named stages, built by name."""

from pretrain.encoders.base import ENCODERS, Encoder, build_encoder, encoder_label, encoder_spec
from pretrain.encoders.presnet import PResNetEncoder
from pretrain.encoders.resnet import ResNetEncoder
from pretrain.encoders.shufflenet import ShuffleNetV2Encoder
from pretrain.encoders.timm_encoder import TimmEncoder

__all__ = [
    "ENCODERS",
    "Encoder",
    "PResNetEncoder",
    "ResNetEncoder",
    "ShuffleNetV2Encoder",
    "TimmEncoder",
    "build_encoder",
    "encoder_label",
    "encoder_spec",
]
