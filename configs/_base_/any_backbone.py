# A backbone from any file, passed with --pretrained. Its encoder is the one that the file's record names; without a record
# it is the config's (--cfg-options model.backbone.encoder.type=...).
pretrained = dict(
    method=None,
    checkpoint=None,
    hint="Any file of tools/export_backbone.py will do, a checkpoint of tools/pretrain.py, and torchvision's weights",
)
