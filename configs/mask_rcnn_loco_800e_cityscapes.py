"""Mask R-CNN on Cityscapes, ResNet-50 pretrained with LoCo for 800 epochs (LoCo, Table 2)."""
_base_ = ["./mask_rcnn_loco_cityscapes.py"]
pretrained = dict(epochs=800, checkpoint="backbones/loco_resnet50_imagenet_800e.pth")
