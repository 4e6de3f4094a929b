"""Table 7, "GIM" on PResNet-50: 52.6 % in the paper."""
_base_ = ["../../_base_/pretrain_gim.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="presnet50"))
