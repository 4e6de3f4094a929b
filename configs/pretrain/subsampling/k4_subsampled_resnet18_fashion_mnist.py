"""SimCLR in 4 decoupled blocks on Fashion-MNIST, subsampled at T = 0.3 (not in the paper)."""
_base_ = ["./k4_simclr_resnet18_fashion_mnist.py"]
model = dict(objective=dict(threshold=0.3))
