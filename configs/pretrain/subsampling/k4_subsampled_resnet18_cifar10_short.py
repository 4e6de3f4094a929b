"""SimCLR in 4 decoupled blocks on CIFAR-10, 5 epochs, subsampled at T = 0: minutes on a CPU."""
_base_ = ["./k4_simclr_resnet18_cifar10_short.py"]
model = dict(objective=dict(threshold=0.0))
