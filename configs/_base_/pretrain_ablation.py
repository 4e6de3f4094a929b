# "All entries are trained with 100 epochs" (LoCo, Tables 4, 5 and 7), otherwise as in section 5.1; in float32, unless told
# model.autocast=bfloat16 model.channels_last=True as the configs/pretrain/*_imagenet_*.py are.
_base_ = ["./pretrain_imagenet.py"]

train_cfg = dict(max_epochs=100)
train_dataloader = dict(  # the same images, and with --data-root those of any folder
    dataset=dict(source="folder", split=None, data_root="data/imagenet/train")
)
