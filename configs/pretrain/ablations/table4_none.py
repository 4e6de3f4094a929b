"""Table 4, "None": 65.7 % in the paper."""
_base_ = ["../../_base_/pretrain_simclr.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"))
