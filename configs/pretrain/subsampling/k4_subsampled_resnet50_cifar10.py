"""SimCLR in 4 decoupled blocks on CIFAR-10, subsampled at T = 0: 89.9 % in the paper (table 1)."""
_base_ = ["./k4_simclr_resnet50_cifar10.py"]
model = dict(objective=dict(threshold=0.0))
