# Cityscapes in COCO's format, loaded as by mmdet's configs/_base_/datasets/cityscapes_instance.py, batch 8; the learning
# rate scales with the real batch size.
_base_ = ["./coco_data.py"]

data = dict(
    root="data/cityscapes",
    train_ann="annotations/instancesonly_filtered_gtFine_train.json",
    train_images="leftImg8bit/train",
    val_ann="annotations/instancesonly_filtered_gtFine_val.json",
    val_images="leftImg8bit/val",
    official_gt="gtFine/val",  # for the official AP beside COCO's
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
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
auto_scale_lr = dict(base_batch_size=8)
