"""Table 4, "1 stage", local: 65.8 % in the paper."""
_base_ = ["../../_base_/pretrain_gim.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(conv_blocks="stage"))
