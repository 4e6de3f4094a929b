"""Mask R-CNN on COCO-1K, ResNet-50 pretrained with SimCLR (LoCo, Table 3)."""
_base_ = ["_base_/protocol_coco1k.py", "_base_/pretrained_on_imagenet.py"]
pretrained = dict(method="simclr", checkpoint="backbones/simclr_resnet50_imagenet.pth")
