# The few-label protocol, small-scale, on the embedded synthetic data set: five splits of 200 images of 96 pixels, backbone
# frozen. Three pyramid levels of 32 channels for objects of 31 to 60 pixels. The numbers are ours.
_base_ = ["./mask_rcnn_r18_small.py"]

synthetic_data = dict(root="data/synthetic")
data = dict(root="data/synthetic", hint="tools/demo.py makes it")
protocol = dict(dataset="demo", num_splits=5, split_size=200, seed=0)
model = dict(
    backbone=dict(
        encoder=dict(type="resnet18", stem="stl", width=16),
        out_stages=("res3", "res4", "res5"),
        out_strides=(4, 8, 16),  # of this encoder; another's are resized to them
    ),
    neck=dict(out_channels=32, num_outs=3),
    rpn_head=dict(in_channels=32, feat_channels=32, anchor_generator=dict(strides=[4, 8, 16], scales=[8])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32, featmap_strides=[4, 8, 16]),
        mask_roi_extractor=dict(out_channels=32, featmap_strides=[4, 8, 16]),
        bbox_head=dict(in_channels=32, conv_out_channels=32),
        mask_head=dict(num_convs=2, in_channels=32, conv_out_channels=32),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=32), rcnn=dict(sampler=dict(num=12))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=32), rcnn=dict(max_per_img=10)),
)
train_cfg = dict(type="ResumableIterTrainLoop", max_iters=140)
train_pipeline = [
    dict(type="LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs"),  # no random flip: the same pixels have the same, cached features
]
test_pipeline = [
    dict(type="LoadImage"),
    dict(type="Resize", scale=(96, 96), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=10, end=140),
]
