"""Encoders: each a sequence of blocks with named stages, built by name."""

from pretrain.encoders.base import ENCODERS, Encoder, build_encoder
from pretrain.encoders.resnet import ResNetEncoder

__all__ = ["ENCODERS", "Encoder", "ResNetEncoder", "build_encoder"]
