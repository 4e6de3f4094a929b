"""Mask R-CNN on COCO-1K, ResNet-50 initialised at random (LoCo, Table 3)."""
_base_ = ["_base_/protocol_coco1k.py"]
pretrained = dict(method="random")
model = dict(backbone=dict(frozen_stages=0))  # section 5.3: conv1 and res2 are frozen "except 'Random Init' entry"
