"""SimCLR end to end on Fashion-MNIST, 5 epochs: minutes on a CPU."""
_base_ = ["../../_base_/pretrain_decoupled_fashion_mnist_short.py"]
