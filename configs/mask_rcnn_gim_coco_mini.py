"""Mask R-CNN on coco_mini, backbone pretrained with Greedy InfoMax on its training images."""
_base_ = ["_base_/protocol_coco_mini.py"]
pretrained = dict(
    method="gim",
    checkpoint="backbones/gim_resnet18_coco_mini.pth",
    hint="Make it with tools/pretrain.py configs/pretrain/gim_resnet18_coco_mini.py and tools/export_backbone.py",
)
