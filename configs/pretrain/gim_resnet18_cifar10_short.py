"""Greedy InfoMax on CIFAR-10 with a quarter of ResNet-18's width at half the resolution, 3 epochs: minutes on a CPU."""
_base_ = ["../_base_/pretrain_gim.py", "../_base_/pretrain_cifar10_short.py"]
model = dict(encoder=dict(type="resnet18", stem="stl", width=16), objective=dict(temperature=0.5), channels_last=True)
