"""Mask R-CNN on coco10k, backbone pretrained with Greedy InfoMax."""
_base_ = ["_base_/protocol_coco10k.py"]
pretrained = dict(
    method="gim",
    checkpoint="backbones/gim_resnet50_imagenet_100e.pth",
    hint="Pretrain a ResNet-50 with tools/pretrain.py and export it there with tools/export_backbone.py",
)
