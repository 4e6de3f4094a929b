"""Review 1, "grouping more than two stages into a unit": every loss reaches down to the images; not in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(rule=dict(window=4))
