"""Mask R-CNN on COCO-10K, PResNet-50 pretrained with LoCo for 800 epochs (not in the papers)."""
_base_ = ["./mask_rcnn_loco_presnet50_coco10k.py"]
pretrained = dict(epochs=800, checkpoint="backbones/loco_presnet50_imagenet_800e.pth")
