"""Mask R-CNN on COCO, ResNet-50 pretrained with SimCLR for 800 epochs (LoCo, Table 2)."""
_base_ = ["./mask_rcnn_simclr_coco.py"]
pretrained = dict(epochs=800, checkpoint="backbones/simclr_resnet50_imagenet_800e.pth")
