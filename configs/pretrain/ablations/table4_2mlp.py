"""Table 4, "2-layer MLP": 67.1 % in the paper."""
_base_ = ["../simclr_resnet50_imagenet.py"]
model = dict(head=dict(mlp_layers=4))  # two layers more
