"""Greedy InfoMax with ResNet-50 on ImageNet-1K, 100 epochs (LoCo, Tables 2 and 3)."""
_base_ = ["../_base_/pretrain_gim.py", "../_base_/pretrain_imagenet.py"]
model = dict(encoder=dict(type="resnet50"), autocast="bfloat16", channels_last=True)
