"""Table 5, "L2 penalty (1e-4)": 65.5 % in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(soft_sharing=dict(coefficient=1e-4))
