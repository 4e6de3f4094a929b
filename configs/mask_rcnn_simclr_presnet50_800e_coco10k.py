"""Mask R-CNN on COCO-10K, PResNet-50 pretrained with SimCLR for 800 epochs (not in the papers)."""
_base_ = ["./mask_rcnn_simclr_presnet50_coco10k.py"]
pretrained = dict(epochs=800, checkpoint="backbones/simclr_presnet50_imagenet_800e.pth")
