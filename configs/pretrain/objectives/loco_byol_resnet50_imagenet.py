"""BYOL in LoCo's units with ResNet-50 on ImageNet-1K, 100 epochs."""
_base_ = ["../../_base_/pretrain_loco.py", "../../_base_/pretrain_imagenet_byol.py"]
model = dict(
    encoder=dict(type="resnet50"),
    objective=dict(_delete_=True, type="BYOL", momentum=0.99),  # official code, 100 epochs
    autocast="bfloat16",
    channels_last=True,
)
