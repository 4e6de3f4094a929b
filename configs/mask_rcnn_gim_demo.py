"""Mask R-CNN on demo, backbone pretrained with Greedy InfoMax."""
_base_ = ["_base_/protocol_demo.py"]
pretrained = dict(
    method="gim",
    checkpoint="work_dirs/demo/backbones/gim_resnet18_demo.pth",
    hint="Make it with tools/demo.py, or with tools/pretrain.py configs/pretrain/gim_resnet18_demo.py and "
    "tools/export_backbone.py",
)
