"""Table 4, "Ours", local, sharing: 66.2 % in the paper; the same run as loco_resnet50_imagenet_100e.py."""
_base_ = ["../loco_resnet50_imagenet_100e.py"]
