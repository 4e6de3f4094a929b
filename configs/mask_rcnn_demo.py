"""Mask R-CNN on demo, on any backbone file (--pretrained FILE)."""
_base_ = ["_base_/protocol_demo.py", "_base_/any_backbone.py"]
