"""Table 4, "2-layer MLP", local: 62.3 % in the paper."""
_base_ = ["../gim_resnet50_imagenet.py"]
model = dict(head=dict(mlp_layers=4))  # two layers more
