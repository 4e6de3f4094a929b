"""SimCLR in 8 decoupled blocks on Fashion-MNIST, subsampled at T = 0.3: 88.2 % in the paper (table 2)."""
_base_ = ["./k8_simclr_resnet18_fashion_mnist.py"]
model = dict(objective=dict(threshold=0.3))
