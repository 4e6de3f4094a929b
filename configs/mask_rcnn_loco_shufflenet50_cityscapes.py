"""Mask R-CNN on Cityscapes, ShuffleNet v2-50 pretrained with LoCo for 100 epochs (LoCo, Table 2)."""
_base_ = ["_base_/protocol_cityscapes.py", "_base_/pretrained_on_imagenet.py"]
pretrained = dict(method="loco", epochs=100, checkpoint="backbones/loco_shufflenet_v2_50_imagenet_100e.pth")
model = dict(backbone=dict(encoder=dict(type="shufflenet_v2_50")))
