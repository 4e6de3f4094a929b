"""SimCLR in 4 decoupled blocks on CIFAR-10: 90.0 % in the paper (table 1)."""
_base_ = ["../../_base_/pretrain_decoupled_cifar10.py"]
model = dict(rule=dict(k=4))
