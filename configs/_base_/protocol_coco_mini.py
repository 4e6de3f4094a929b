# Real images in the small: five splits of 200 of the 343 training images of a cut-out of COCO 2017, its 12 supercategories
# (80 classes are too many), images resized into and padded to 320 x 320 pixels, backbone frozen.
_base_ = ["./mask_rcnn_r18_small.py"]

data = dict(
    root="data/coco_mini",
    supercategories=True,
    hint="Any small cut-out of COCO 2017 in COCO's own layout will do: annotations/, train2017/, val2017/",
)
protocol = dict(dataset="coco_mini", num_splits=5, split_size=200, seed=0)
iterations = 200
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_begin=1_000_000)
resize = dict(type="Resize", scale=(320, 320), keep_ratio=True)
pad = dict(type="Pad", size=(320, 320), pad_val=dict(img=(124, 116, 104)))  # a fixed size, so that features can be cached
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    resize,
    pad,
    dict(type="PackDetInputs"),  # no random flip, for the same reason
]
test_pipeline = [
    dict(type="LoadImage"),
    resize,
    pad,
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=iterations),
]
