"""Mask R-CNN on COCO, on any backbone file (--pretrained FILE)."""
_base_ = ["_base_/protocol_coco.py", "_base_/any_backbone.py"]
