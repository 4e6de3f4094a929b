"""SimCLR in 8 decoupled blocks on CIFAR-10, 5 epochs: minutes on a CPU."""
_base_ = ["../../_base_/pretrain_decoupled_cifar10_short.py"]
model = dict(rule=dict(k=8))
