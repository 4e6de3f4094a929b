"""Table 4, "Ours + 2-layer MLP", local, sharing: 67.5 % in the paper."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(mlp_layers=4))  # two layers more
