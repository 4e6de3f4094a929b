"""Mask R-CNN on COCO-10K, ResNet-50 pretrained on ImageNet with labels (LoCo, Table 3)."""
_base_ = ["_base_/protocol_coco10k.py", "_base_/pretrained_supervised.py"]
