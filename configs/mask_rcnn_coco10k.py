"""Mask R-CNN on COCO-10K, on any backbone file (--pretrained FILE)."""
_base_ = ["_base_/protocol_coco10k.py", "_base_/any_backbone.py"]
