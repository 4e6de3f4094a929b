"""Greedy InfoMax with PResNet-50 on ImageNet-1K, 100 epochs (LoCo, Table 7)."""
_base_ = ["../_base_/pretrain_gim.py", "../_base_/pretrain_imagenet.py"]
model = dict(encoder=dict(type="presnet50"), autocast="bfloat16", channels_last=True)
