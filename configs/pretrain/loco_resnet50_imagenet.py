"""LoCo with ResNet-50 on ImageNet-1K, 100 epochs (LoCo, Tables 1 (800 epochs), 2, 3; "Ours" of Table 4)."""
_base_ = ["../_base_/pretrain_loco.py", "../_base_/pretrain_imagenet.py"]
model = dict(encoder=dict(type="resnet50"), autocast="bfloat16", channels_last=True)
