"""Mask R-CNN on COCO-10K, ResNet-50 pretrained with Greedy InfoMax for 800 epochs (LoCo, Table 3)."""
_base_ = ["./mask_rcnn_gim_coco10k.py"]
pretrained = dict(epochs=800, checkpoint="backbones/gim_resnet50_imagenet_800e.pth")
