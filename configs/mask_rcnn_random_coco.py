"""Mask R-CNN on COCO, ResNet-50 initialised at random (not in the paper)."""
_base_ = ["_base_/protocol_coco.py"]
pretrained = dict(method="random")
