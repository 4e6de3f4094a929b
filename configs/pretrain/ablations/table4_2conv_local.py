"""Table 4, "2 conv blocks", local: 65.8 % in the paper."""
_base_ = ["../gim_resnet50_imagenet.py"]
model = dict(head=dict(conv_blocks=2))
