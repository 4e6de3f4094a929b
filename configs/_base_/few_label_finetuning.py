# Few labels: LoCo, section 5.3. Everything is fine-tuned with SyncBN except conv1 and res2; multi-scale training.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./coco_data.py"]

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
train_dataloader = dict(
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True), dataset=dict(pipeline=train_pipeline)
)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
log_processor = dict(by_epoch=False)
# The paper leaves the learning rate and its decay open ("adjusted"): the 1x rate, decayed at 2/3 and 8/9 as the 1x schedule.
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
