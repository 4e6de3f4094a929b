"""Mask R-CNN on COCO, ResNet-50 pretrained on ImageNet with labels (LoCo, Table 2)."""
_base_ = ["_base_/protocol_coco.py", "_base_/pretrained_supervised.py"]
