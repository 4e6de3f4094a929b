"""GIM on the training images of a cut-out of COCO; about ten minutes on two cores."""
_base_ = ["../_base_/pretrain_gim.py", "../_base_/pretrain_coco_mini.py"]
model = dict(encoder=dict(type="resnet18"), objective=dict(temperature=0.2), channels_last=True)
