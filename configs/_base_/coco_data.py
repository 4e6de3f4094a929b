# COCO 2017, or any set in its layout, loaded as by mmdet's configs/_base_/datasets/coco_instance.py, batch 16; the learning
# rate scales with the real batch size.
data = dict(
    root="data/coco",
    train_ann="annotations/instances_train2017.json",
    train_images="train2017",
    val_ann="annotations/instances_val2017.json",
    val_images="val2017",
    num_train_images=None,  # how many the training annotations must list; None for any number
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
    batch_size=16,  # over all processes
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
auto_scale_lr = dict(enable=True, base_batch_size=16)
