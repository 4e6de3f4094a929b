"""Mask R-CNN on COCO, ShuffleNet v2-50 pretrained with SimCLR for 800 epochs (LoCo, Table 2)."""
_base_ = ["./mask_rcnn_simclr_shufflenet50_coco.py"]
pretrained = dict(epochs=800, checkpoint="backbones/simclr_shufflenet_v2_50_imagenet_800e.pth")
