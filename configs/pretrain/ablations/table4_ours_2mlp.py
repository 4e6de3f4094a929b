"""Table 4, "Ours + 2-layer MLP", local, sharing: 67.5 % in the paper."""
_base_ = ["../loco_resnet50_imagenet.py"]
model = dict(head=dict(mlp_layers=4))  # two layers more
