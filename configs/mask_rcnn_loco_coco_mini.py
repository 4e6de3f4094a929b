"""Mask R-CNN on coco_mini, backbone pretrained with LoCo on its training images."""
_base_ = ["_base_/protocol_coco_mini.py"]
pretrained = dict(
    method="loco",
    checkpoint="backbones/loco_resnet18_coco_mini.pth",
    hint="Make it with tools/pretrain.py configs/pretrain/loco_resnet18_coco_mini.py and tools/export_backbone.py",
)
