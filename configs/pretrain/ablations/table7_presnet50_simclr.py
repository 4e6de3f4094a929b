"""Table 7, "SimCLR" on PResNet-50: 66.8 % in the paper."""
_base_ = ["../../_base_/pretrain_simclr.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="presnet50"))
