"""Mask R-CNN on coco_mini, backbone pretrained with SimCLR on its training images."""
_base_ = ["_base_/protocol_coco_mini.py"]
pretrained = dict(
    method="simclr",
    checkpoint="backbones/simclr_resnet18_coco_mini.pth",
    hint="Make it with tools/pretrain.py configs/pretrain/simclr_resnet18_coco_mini.py and tools/export_backbone.py",
)
