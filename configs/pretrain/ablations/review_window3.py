"""Review 1, "grouping more than two stages into a unit": three; not in the paper."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), rule=dict(window=3))
