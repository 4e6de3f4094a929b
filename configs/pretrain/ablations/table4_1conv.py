"""Table 4, "1 conv block": 65.6 % in the paper."""
_base_ = ["../../_base_/pretrain_simclr.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(conv_blocks=1))
