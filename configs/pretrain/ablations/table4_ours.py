"""Table 4, "Ours", local, sharing: 66.2 % in the paper."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"))
