"""Mask R-CNN on demo, backbone pretrained with LoCo."""
_base_ = ["_base_/protocol_demo.py"]
pretrained = dict(
    method="loco",
    checkpoint="work_dirs/demo/backbones/loco_resnet18_demo.pth",
    hint="Make it with tools/demo.py, or with tools/pretrain.py configs/pretrain/loco_resnet18_demo.py and "
    "tools/export_backbone.py",
)
