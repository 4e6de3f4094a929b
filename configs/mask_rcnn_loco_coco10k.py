"""Mask R-CNN on coco10k, backbone pretrained with LoCo."""
_base_ = ["_base_/protocol_coco10k.py"]
pretrained = dict(
    method="loco",
    checkpoint="backbones/loco_resnet50_imagenet_100e.pth",
    hint="Pretrain a ResNet-50 with tools/pretrain.py and export it there with tools/export_backbone.py",
)
