"""Section 4.1 read as LoCo without a loss on res2; the paper gives no number for it."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), rule=dict(res2_loss=False))
