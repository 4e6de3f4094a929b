"""Table 4, "1 conv block": 65.6 % in the paper."""
_base_ = ["../simclr_resnet50_imagenet.py"]
model = dict(head=dict(conv_blocks=1))
