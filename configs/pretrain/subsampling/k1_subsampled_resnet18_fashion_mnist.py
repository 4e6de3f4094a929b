"""SimCLR end to end on Fashion-MNIST, subsampled at T = 0.3: 90.3 % in the paper (table 2)."""
_base_ = ["./k1_simclr_resnet18_fashion_mnist.py"]
model = dict(objective=dict(threshold=0.3))
