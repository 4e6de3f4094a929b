"""Mask R-CNN on COCO-1K, on any backbone file (--pretrained FILE)."""
_base_ = ["_base_/protocol_coco1k.py", "_base_/any_backbone.py"]
