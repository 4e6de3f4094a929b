"""SimCLR in 16 decoupled blocks on CIFAR-10, subsampled at T = 0: 87.1 % in the paper (table 1)."""
_base_ = ["./k16_simclr_resnet50_cifar10.py"]
model = dict(objective=dict(threshold=0.0))
