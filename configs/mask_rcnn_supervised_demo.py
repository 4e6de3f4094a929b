"""Mask R-CNN on demo, backbone pretrained on ImageNet with labels."""
_base_ = ["_base_/protocol_demo.py"]
pretrained = dict(
    method="supervised",
    checkpoint="backbones/resnet18-f37072fd.pth",
    hint="Get https://download.pytorch.org/models/resnet18-f37072fd.pth and put it there",
)
