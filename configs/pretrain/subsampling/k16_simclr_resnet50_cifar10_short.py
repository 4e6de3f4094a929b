"""SimCLR in 16 decoupled blocks of a quarter-width ResNet-50 on CIFAR-10, 5 epochs: an hour or two on a CPU."""
_base_ = ["../../_base_/pretrain_decoupled_cifar10_short.py"]
model = dict(encoder=dict(type="resnet50"), rule=dict(k=16))
