# COCO 2017 (or any set in its layout), batch 16 on 8 GPUs; the learning rate scales with the real batch size.
data = dict(
    root="data/coco",
    train_ann="annotations/instances_train2017.json",
    train_images="train2017",
    val_ann="annotations/instances_val2017.json",
    val_images="val2017",
    supercategories=False,
    hint="Unpack train2017.zip, val2017.zip and annotations_trainval2017.zip from https://cocodataset.org/#download into "
    "that folder",
)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="CocoInstances", filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CocoInstances", test_mode=True, pipeline=test_pipeline),
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
