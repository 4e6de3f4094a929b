"""Table 5, "Upper layer grad only": 65.3 % in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(rule=dict(type="upper_gradient"))
