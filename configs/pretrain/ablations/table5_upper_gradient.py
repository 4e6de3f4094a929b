"""Table 5, "Upper layer grad only": 65.3 % in the paper."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), rule=dict(type="upper_gradient"))
