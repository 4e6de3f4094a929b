"""Table 4, "1 conv block (w/o ds)", local: 63.6 % in the paper."""
_base_ = ["../gim_resnet50_imagenet.py"]
model = dict(head=dict(conv_blocks=1, downsample=False))
