"""VICReg end to end with ResNet-50 on ImageNet-1K, 100 epochs."""
_base_ = ["../../_base_/pretrain_simclr.py", "../../_base_/pretrain_imagenet_vicreg.py"]
model = dict(
    encoder=dict(type="resnet50"),
    objective=dict(_delete_=True, type="VICReg"),
    autocast="bfloat16",
    channels_last=True,
)
