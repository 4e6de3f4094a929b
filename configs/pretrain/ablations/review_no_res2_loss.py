"""Section 4.1 read as LoCo without a loss on res2; the paper gives no number for it."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(rule=dict(res2_loss=False))
