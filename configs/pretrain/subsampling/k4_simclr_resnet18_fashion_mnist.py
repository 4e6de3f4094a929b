"""SimCLR in 4 decoupled blocks on Fashion-MNIST (not in the paper)."""
_base_ = ["../../_base_/pretrain_decoupled_fashion_mnist.py"]
model = dict(rule=dict(k=4))
