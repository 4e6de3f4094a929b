# A few epochs of CIFAR-10 on a CPU, with a quarter of ResNet-18's width at half the resolution; the numbers are ours.
_base_ = ["./pretrain_decoupled_cifar10.py"]

model = dict(encoder=dict(_delete_=True, type="resnet18", stem="stl", width=16))
train_cfg = dict(max_epochs=5)
default_hooks = dict(checkpoint=dict(interval=1))
