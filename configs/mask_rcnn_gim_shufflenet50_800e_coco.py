"""Mask R-CNN on COCO, ShuffleNet v2-50 pretrained with Greedy InfoMax for 800 epochs (LoCo, Table 2)."""
_base_ = ["./mask_rcnn_gim_shufflenet50_coco.py"]
pretrained = dict(epochs=800, checkpoint="backbones/gim_shufflenet_v2_50_imagenet_800e.pth")
