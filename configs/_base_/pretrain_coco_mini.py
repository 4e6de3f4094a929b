# The 343 training images of a cut-out of COCO 2017, SimCLR's augmentation at 64 pixels. The numbers are ours.
_base_ = ["./pretrain_runtime.py"]

train_dataloader = dict(
    dataset=dict(
        data_root="data/coco_mini/train2017", cache=True, views=dict(size=64, min_scale=0.2)
    ),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=2e-3, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=4, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=4, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=40)
default_hooks = dict(checkpoint=dict(interval=10))
