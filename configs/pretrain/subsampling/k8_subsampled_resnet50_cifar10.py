"""SimCLR in 8 decoupled blocks on CIFAR-10, subsampled at T = 0: 88.4 % in the paper (table 1)."""
_base_ = ["./k8_simclr_resnet50_cifar10.py"]
model = dict(objective=dict(threshold=0.0))
