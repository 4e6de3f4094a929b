"""Greedy InfoMax with ResNet-50 on ImageNet-1K, 100 epochs (LoCo, Tables 1 (800 epochs), 2, 3; Table 4 "None", local)."""
_base_ = ["../_base_/pretrain_gim.py", "../_base_/pretrain_imagenet.py"]
model = dict(encoder=dict(type="resnet50"), autocast="bfloat16", channels_last=True)
