"""As k4_simclr_window2_resnet18_cifar10_short.py, subsampled at T = 0: minutes on a CPU."""
_base_ = ["./k4_simclr_window2_resnet18_cifar10_short.py"]
model = dict(objective=dict(threshold=0.0))
