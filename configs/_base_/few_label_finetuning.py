# Few labels: LoCo, section 5.3. Everything is fine-tuned with SyncBN except conv1 and res2; multi-scale training.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./coco_data.py"]

data = dict(num_train_images=118_287)  # of train2017: other sets give other splits
model = dict(backbone=dict(frozen_stages=1, norm_eval=False, sync_bn=True))
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=[(1333, side) for side in range(640, 801, 32)],  # "multi-scale training", He et al. 2019: 640 to 800
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
log_processor = dict(by_epoch=False)
# The paper leaves the learning rate and its decay open ("adjusted"): the 1x rate of COCO, decayed at 2/3 and 8/9 as
# Detectron's 1x schedule, which He et al. 2019 start from (60k and 80k of 90k iterations).
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
