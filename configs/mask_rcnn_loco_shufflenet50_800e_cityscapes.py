"""Mask R-CNN on Cityscapes, ShuffleNet v2-50 pretrained with LoCo for 800 epochs (LoCo, Table 2)."""
_base_ = ["./mask_rcnn_loco_shufflenet50_cityscapes.py"]
pretrained = dict(epochs=800, checkpoint="backbones/loco_shufflenet_v2_50_imagenet_800e.pth")
