# Frozen transfer of a ResNet-18, small-scale: few images of a quarter of COCO's size on two cores. Narrow pyramid and heads,
# few proposals, AdamW for a few hundred iterations at batch 4; anchors and the assignment of boxes to pyramid levels (56 at
# COCO's 800 pixels) shrink with the images. The numbers are ours: the papers have no run of this size.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./coco_data.py"]

model = dict(
    backbone=dict(encoder=dict(type="resnet18"), cache_mib=2048),
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
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    dataset=dict(filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(batch_size=8, num_workers=0, persistent_workers=False)
log_processor = dict(by_epoch=False)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=3e-3, weight_decay=1e-2))
auto_scale_lr = dict(base_batch_size=4)
