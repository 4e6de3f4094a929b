"""Mask R-CNN on coco10k, backbone pretrained on ImageNet with labels (LoCo, section 5.2, footnote 1)."""
_base_ = ["_base_/protocol_coco10k.py"]
pretrained = dict(
    method="supervised",
    checkpoint="backbones/resnet50-19c8e357.pth",
    hint="Get https://download.pytorch.org/models/resnet50-19c8e357.pth and put it there",
)
