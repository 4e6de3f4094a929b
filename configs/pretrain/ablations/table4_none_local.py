"""Table 4, "None", local: 60.9 % in the paper; the same run as gim_resnet50_imagenet_100e.py."""
_base_ = ["../gim_resnet50_imagenet_100e.py"]
