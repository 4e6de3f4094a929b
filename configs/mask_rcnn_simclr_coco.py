"""Mask R-CNN on coco, backbone pretrained with SimCLR."""
_base_ = ["_base_/protocol_coco.py"]
pretrained = dict(
    method="simclr",
    checkpoint="backbones/simclr_resnet50_imagenet_100e.pth",
    hint="Pretrain a ResNet-50 with tools/pretrain.py and export it there with tools/export_backbone.py",
)
