"""Mask R-CNN on coco_mini, on any backbone file (--pretrained FILE)."""
_base_ = ["_base_/protocol_coco_mini.py", "_base_/any_backbone.py"]
