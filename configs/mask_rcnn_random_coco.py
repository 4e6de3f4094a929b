"""Mask R-CNN on coco, backbone initialised at random."""
_base_ = ["_base_/protocol_coco.py"]
pretrained = dict(method="random")
