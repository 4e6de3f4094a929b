"""SimCLR in 8 decoupled blocks on Fashion-MNIST, 5 epochs, subsampled at T = 0.3: minutes on a CPU."""
_base_ = ["./k8_simclr_resnet18_fashion_mnist_short.py"]
model = dict(objective=dict(threshold=0.3))
