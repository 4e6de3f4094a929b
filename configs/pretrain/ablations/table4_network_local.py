"""Table 4, "full network", local: 65.8 % in the paper."""
_base_ = ["../gim_resnet50_imagenet.py"]
model = dict(head=dict(conv_blocks="network"))
