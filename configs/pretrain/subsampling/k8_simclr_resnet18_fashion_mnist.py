"""SimCLR in 8 decoupled blocks on Fashion-MNIST: 87.2 % in the paper (table 2)."""
_base_ = ["../../_base_/pretrain_decoupled_fashion_mnist.py"]
model = dict(rule=dict(k=8))
