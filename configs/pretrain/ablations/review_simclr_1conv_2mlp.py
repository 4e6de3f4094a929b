"""Review 1: SimCLR with all of the layers that heads of "Ours + 2-layer MLP" have; not in the paper."""
_base_ = ["../simclr_resnet50_imagenet.py"]
model = dict(head=dict(conv_blocks=1, mlp_layers=4))  # two layers more
