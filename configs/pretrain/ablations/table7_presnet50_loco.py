"""Table 7, "LoCo" on PResNet-50: 66.6 % in the paper."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="presnet50"))
