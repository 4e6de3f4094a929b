"""Table 5, "Sharing 2 blocks": 65.3 % in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(rule=dict(type="sharing", blocks=2))
