"""Table 7, "SimCLR" on PResNet-50: 66.8 % in the paper; the same run as simclr_presnet50_imagenet_100e.py."""
_base_ = ["../simclr_presnet50_imagenet_100e.py"]
