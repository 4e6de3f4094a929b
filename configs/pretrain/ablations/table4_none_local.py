"""Table 4, "None", local: 60.9 % in the paper."""
_base_ = ["../../_base_/pretrain_gim.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"))
