# The few-label protocol (LoCo, section 5.3), small-scale, on real images: five splits of 200 of the 343 training images of a
# cut-out of COCO 2017, its 12 supercategories (80 classes are too many), images of a quarter of the paper's sides, a short
# schedule. As in the paper everything is fine-tuned except conv1 and res2, with multi-scale training. The numbers are ours.
_base_ = ["./mask_rcnn_r18_small.py"]

data = dict(
    root="data/coco_mini",
    supercategories=True,
    hint="Any small cut-out of COCO 2017 in COCO's own layout will do: annotations/, train2017/, val2017/",
)
protocol = dict(dataset="coco_mini", num_splits=5, split_size=200, seed=0)
model = dict(backbone=dict(frozen_stages=1, norm_eval=False, sync_bn=True, cache_mib=0))
train_cfg = dict(type="ResumableIterTrainLoop", max_iters=120)  # 2.4 passes, minutes on a core; 240 would take days
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(333, side) for side in range(160, 201, 8)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(333, 200), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=120),
]
