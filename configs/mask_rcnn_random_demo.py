"""Mask R-CNN on demo, backbone initialised at random."""
_base_ = ["_base_/protocol_demo.py"]
pretrained = dict(method="random")
