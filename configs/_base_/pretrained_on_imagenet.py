# A backbone that was pretrained without labels on ImageNet.
pretrained = dict(
    hint="Make it with tools/pretrain.py and the config of that name in configs/pretrain, and export the last checkpoint to "
    "that file with tools/export_backbone.py",
)
