# Cityscapes in COCO's format, loaded as by mmdet's configs/_base_/datasets/cityscapes_instance.py, batch 8; the learning
# rate scales with the real batch size.
data = dict(
    root="data/cityscapes",
    train_ann="annotations/instancesonly_filtered_gtFine_train.json",
    train_images="leftImg8bit/train",
    val_ann="annotations/instancesonly_filtered_gtFine_val.json",
    val_images="leftImg8bit/val",
    official_gt="gtFine/val",  # for the official AP beside COCO's
    num_train_images=None,  # a partial tree converts with a warning
    supercategories=False,
    hint="Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com/downloads "
    "into that folder and convert it with tools/prepare_data.py cityscapes --data-root DIR",
)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=[(2048, 800), (2048, 1024)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=8,  # over all processes
    num_workers=4,  # of each process
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="AspectRatioSampler"),
    dataset=dict(
        type="CocoInstances", filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,  # of each process
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CocoInstances", test_mode=True, pipeline=test_pipeline),
)
auto_scale_lr = dict(enable=True, base_batch_size=8)
