"""Table 4, "1 conv block (w/o ds)", local: 63.6 % in the paper."""
_base_ = ["../../_base_/pretrain_gim.py", "../../_base_/pretrain_ablation.py"]
model = dict(encoder=dict(type="resnet50"), decoder=dict(conv_blocks=1, downsample=False))
