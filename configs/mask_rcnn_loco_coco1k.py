"""Mask R-CNN on COCO-1K, ResNet-50 pretrained with LoCo (LoCo, Table 3)."""
_base_ = ["_base_/protocol_coco1k.py", "_base_/pretrained_on_imagenet.py"]
pretrained = dict(method="loco", checkpoint="backbones/loco_resnet50_imagenet.pth")
