"""LoCo on any folder of images: pass it with --data-root. SimCLR's augmentation at 96 pixels, 100 epochs at batch 128."""
_base_ = ["./loco_resnet18_coco_mini.py"]
train_dataloader = dict(
    batch_size=128, num_workers=2, dataset=dict(data_root="data/images", cache=False, views=dict(size=96, min_scale=0.08))
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=10, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=100)
