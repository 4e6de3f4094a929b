"""Mask R-CNN on COCO, ResNet-50 pretrained with LoCo for 800 epochs (LoCo, Table 2)."""
_base_ = ["./mask_rcnn_loco_coco.py"]
pretrained = dict(epochs=800, checkpoint="backbones/loco_resnet50_imagenet_800e.pth")
