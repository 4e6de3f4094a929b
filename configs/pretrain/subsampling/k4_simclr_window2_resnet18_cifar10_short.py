"""SimCLR in 4 blocks on CIFAR-10, each loss reaching the block below as well (LoCo's overlap): minutes on a CPU."""
_base_ = ["./k4_simclr_resnet18_cifar10_short.py"]
model = dict(rule=dict(window=2))
