"""SimCLR end to end on Fashion-MNIST, 5 epochs, subsampled at T = 0.3: minutes on a CPU."""
_base_ = ["./k1_simclr_resnet18_fashion_mnist_short.py"]
model = dict(objective=dict(threshold=0.3))
