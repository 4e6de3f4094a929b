"""Table 4, "1 conv block", local: 65.1 % in the paper."""
_base_ = ["../gim_resnet50_imagenet.py"]
model = dict(head=dict(conv_blocks=1))
