"""Mask R-CNN on demo, backbone pretrained with SimCLR."""
_base_ = ["_base_/protocol_demo.py"]
pretrained = dict(
    method="simclr",
    checkpoint="work_dirs/demo/backbones/simclr_resnet18_demo.pth",
    hint="Make it with tools/demo.py, or with tools/pretrain.py configs/pretrain/simclr_resnet18_demo.py and "
    "tools/export_backbone.py",
)
