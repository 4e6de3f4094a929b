"""Mask R-CNN on coco10k, backbone initialised at random."""
_base_ = ["_base_/protocol_coco10k.py"]
pretrained = dict(method="random")
model = dict(backbone=dict(frozen_stages=0))  # LoCo, section 5.3: nothing is frozen
