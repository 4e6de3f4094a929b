"""Table 4, "2-layer MLP": 67.1 % in the paper."""
_base_ = ["../../_base_/pretrain_simclr.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(mlp_layers=4))  # two layers more
