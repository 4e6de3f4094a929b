"""Mask R-CNN on Cityscapes, ResNet-50 pretrained with Greedy InfoMax (LoCo, Table 2)."""
_base_ = ["_base_/protocol_cityscapes.py", "_base_/pretrained_on_imagenet.py"]
pretrained = dict(method="gim", checkpoint="backbones/gim_resnet50_imagenet.pth")
