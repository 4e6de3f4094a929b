"""Mask R-CNN on Cityscapes, on any backbone file (--pretrained FILE)."""
_base_ = ["_base_/protocol_cityscapes.py", "_base_/any_backbone.py"]
