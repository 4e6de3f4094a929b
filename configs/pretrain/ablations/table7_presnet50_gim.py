"""Table 7, "GIM" on PResNet-50: 52.6 % in the paper; the same run as gim_presnet50_imagenet_100e.py."""
_base_ = ["../gim_presnet50_imagenet_100e.py"]
