"""Mask R-CNN on coco_mini, backbone initialised at random."""
_base_ = ["_base_/protocol_coco_mini.py"]
pretrained = dict(method="random")
model = dict(backbone=dict(frozen_stages=0))  # LoCo, section 5.3: nothing is frozen
