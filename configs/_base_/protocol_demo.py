# The few-label protocol in the small on the embedded synthetic data set, backbone frozen, sized for two cores. Images have
# 128 pixels where COCO has 800, so anchors and the pyramid's level assignment are those of COCO divided by about 5. The
# numbers are ours.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./coco_data.py"]

synthetic_data = dict(root="data/synthetic", num_train=600, num_val=100, num_unlabeled=2000)
data = dict(root="data/synthetic", hint="tools/demo.py makes it")
protocol = dict(dataset="demo", num_splits=5, split_size=200, seed=0)
iterations = 220
train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_begin=1_000_000)
model = dict(
    backbone=dict(encoder=dict(type="resnet18"), cache_mib=1024),
    neck=dict(out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=14),
        mask_roi_extractor=dict(out_channels=64, finest_scale=14),
        bbox_head=dict(in_channels=64, conv_out_channels=64, fc_out_channels=128),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=200, max_per_img=64),
        rcnn=dict(sampler=dict(num=16, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=64), rcnn=dict(max_per_img=30)),
)
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
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=3e-3, weight_decay=1e-2))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=10, end=iterations),
]
auto_scale_lr = dict(base_batch_size=4)
