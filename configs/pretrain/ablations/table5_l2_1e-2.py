"""Table 5, "L2 penalty (1e-2)": 65.9 % in the paper."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), soft_sharing=dict(coefficient=1e-2))
