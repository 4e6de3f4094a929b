"""Review 1: SimCLR with all of the layers that decoders of "Ours + 2-layer MLP" have; not in the paper."""
_base_ = ["../../_base_/pretrain_simclr.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(conv_blocks=1, mlp_layers=4))  # two layers more
