"""Four decoupled blocks on CIFAR-10, subsampled at T = 0: a config of the second paper with its options, for tests."""
_base_ = ["../../../configs/pretrain/decoupled_resnet18_cifar10_short.py"]
model = dict(rule=dict(k=4), objective=dict(threshold=0.0))
