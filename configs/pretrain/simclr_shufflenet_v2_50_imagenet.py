"""SimCLR with ShuffleNet v2-50 on ImageNet-1K, 100 epochs (LoCo, Tables 1 (800 epochs), 2)."""
_base_ = ["../_base_/pretrain_simclr.py", "../_base_/pretrain_imagenet.py"]
model = dict(encoder=dict(type="shufflenet_v2_50"), autocast="bfloat16", channels_last=True)
