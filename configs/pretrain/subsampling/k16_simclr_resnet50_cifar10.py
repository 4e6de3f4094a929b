"""SimCLR in 16 decoupled blocks on CIFAR-10: 85.9 % in the paper (table 1)."""
_base_ = ["../../_base_/pretrain_decoupled_cifar10.py"]
model = dict(rule=dict(k=16))
