"""Mask R-CNN on COCO-10K, ResNet-50 pretrained with SimCLR for 800 epochs (LoCo, Table 3)."""
_base_ = ["./mask_rcnn_simclr_coco10k.py"]
pretrained = dict(epochs=800, checkpoint="backbones/simclr_resnet50_imagenet_800e.pth")
