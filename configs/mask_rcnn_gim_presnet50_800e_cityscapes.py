"""Mask R-CNN on Cityscapes, PResNet-50 pretrained with Greedy InfoMax for 800 epochs (not in the papers)."""
_base_ = ["./mask_rcnn_gim_presnet50_cityscapes.py"]
pretrained = dict(epochs=800, checkpoint="backbones/gim_presnet50_imagenet_800e.pth")
