# The few-label protocol, small-scale, on the embedded synthetic data set: five splits of 200 images of 128 pixels, backbone
# frozen. The numbers are ours.
_base_ = ["./mask_rcnn_r18_small.py"]

synthetic_data = dict(root="data/synthetic")
data = dict(root="data/synthetic", hint="tools/demo.py makes it")
protocol = dict(dataset="demo", num_splits=5, split_size=200, seed=0)
train_cfg = dict(type="ResumableIterTrainLoop", max_iters=190)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs"),  # no random flip: the same pixels have the same, cached features
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=10, end=190),
]
