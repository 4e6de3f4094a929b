"""Review 1, "grouping more than two stages into a unit": three; not in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(rule=dict(window=3))
