# The few-label protocol in the small on the embedded synthetic data set, backbone frozen. The numbers are ours.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./coco_data.py"]

synthetic_data = dict(root="data/synthetic", num_train=600, num_val=150, num_unlabeled=1000)
data = dict(root="data/synthetic", hint="tools/demo.py makes it")
protocol = dict(dataset="demo", num_splits=5, split_size=200, seed=0)
iterations = 120
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_begin=1_000_000)
model = dict(
    data_preprocessor=dict(pad_mask=True, pad_size_divisor=32),
    backbone=dict(encoder=dict(type="resnet18")),
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        mask_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, conv_out_channels=64, fc_out_channels=128),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=64),
        rcnn=dict(sampler=dict(num=64)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=64), rcnn=dict(max_per_img=30)),
)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=iterations))
log_processor = dict(by_epoch=False)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=20, end=iterations),
]
auto_scale_lr = dict(base_batch_size=4)
