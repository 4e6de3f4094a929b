"""Table 4, "2-layer MLP", local: 62.3 % in the paper."""
_base_ = ["../../_base_/pretrain_gim.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(mlp_layers=4))  # two layers more
