"""SimCLR end to end on CIFAR-10, subsampled at T = 0: 91.4 % in the paper (table 1)."""
_base_ = ["./k1_simclr_resnet50_cifar10.py"]
model = dict(objective=dict(threshold=0.0))
