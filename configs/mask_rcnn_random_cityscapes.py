"""Mask R-CNN on Cityscapes, ResNet-50 initialised at random (not in the paper)."""
_base_ = ["_base_/protocol_cityscapes.py"]
pretrained = dict(method="random")
