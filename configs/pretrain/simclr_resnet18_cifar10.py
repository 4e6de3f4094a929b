"""SimCLR on CIFAR-10, 200 epochs: for a GPU. Class folders instead of the standard files: dataset.source=folder."""
_base_ = ["../_base_/pretrain_simclr.py", "../_base_/pretrain_cifar10.py"]
model = dict(
    encoder=dict(type="resnet18", stem="small"), objective=dict(temperature=0.5), channels_last=True, autocast="bfloat16"
)
