"""SimCLR end to end on Fashion-MNIST: 91.3 % in the paper (table 2)."""
_base_ = ["../../_base_/pretrain_decoupled_fashion_mnist.py"]
