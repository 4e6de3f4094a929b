"""Mask R-CNN on COCO-10K, PResNet-50 pretrained with LoCo for 100 epochs (not in the papers)."""
_base_ = ["_base_/protocol_coco10k.py", "_base_/pretrained_on_imagenet.py"]
pretrained = dict(method="loco", epochs=100, checkpoint="backbones/loco_presnet50_imagenet_100e.pth")
model = dict(backbone=dict(encoder=dict(type="presnet50")))
