"""Mask R-CNN on COCO-1K, PResNet-50 pretrained with Greedy InfoMax for 100 epochs (not in the papers)."""
_base_ = ["_base_/protocol_coco1k.py", "_base_/pretrained_on_imagenet.py"]
pretrained = dict(method="gim", epochs=100, checkpoint="backbones/gim_presnet50_imagenet_100e.pth")
model = dict(backbone=dict(encoder=dict(type="presnet50")))
