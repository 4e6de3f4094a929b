"""Mask R-CNN on COCO-1K, ResNet-50 pretrained on ImageNet with labels (LoCo, Table 3)."""
_base_ = ["_base_/protocol_coco1k.py", "_base_/pretrained_supervised.py"]
