"""Mask R-CNN on Cityscapes, ResNet-50 pretrained on ImageNet with labels (LoCo, Table 2)."""
_base_ = ["_base_/protocol_cityscapes.py", "_base_/pretrained_supervised.py"]
