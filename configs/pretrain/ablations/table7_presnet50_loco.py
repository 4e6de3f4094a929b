"""Table 7, "LoCo" on PResNet-50: 66.6 % in the paper; the same run as loco_presnet50_imagenet_100e.py."""
_base_ = ["../loco_presnet50_imagenet_100e.py"]
