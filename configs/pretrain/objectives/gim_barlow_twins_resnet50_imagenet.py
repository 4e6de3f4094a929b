"""Blockwise Barlow Twins: one loss per stage of ResNet-50, no gradient between stages (Siddiqui et al., 2023)."""
# A 1x1 convolution to 2048 channels before the pooling, and 300 epochs: official code, model.py and train.sh.
# Their noise between the blocks is left out.
_base_ = ["../../_base_/pretrain_gim.py", "../../_base_/pretrain_imagenet_barlow_twins.py"]
model = dict(
    encoder=dict(type="resnet50"),
    head=dict(conv_blocks="expand"),
    objective=dict(_delete_=True, type="BarlowTwins"),
    autocast="bfloat16",
    channels_last=True,
)
train_cfg = dict(max_epochs=300)
