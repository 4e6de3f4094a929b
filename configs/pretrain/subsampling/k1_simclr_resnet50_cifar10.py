"""SimCLR end to end on CIFAR-10: 92.1 % in the paper (table 1)."""
_base_ = ["../../_base_/pretrain_decoupled_cifar10.py"]
