"""Table 4, "None": 65.7 % in the paper; the same run as simclr_resnet50_imagenet_100e.py."""
_base_ = ["../simclr_resnet50_imagenet_100e.py"]
