"""Table 5, "Sharing 1 block": 64.8 % in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(rule=dict(type="sharing", blocks=1))
