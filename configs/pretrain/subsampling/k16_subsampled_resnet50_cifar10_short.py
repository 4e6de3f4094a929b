"""As k16_simclr_resnet50_cifar10_short.py, subsampled at T = 0: an hour or two on a CPU."""
_base_ = ["./k16_simclr_resnet50_cifar10_short.py"]
model = dict(objective=dict(threshold=0.0))
