# Frozen transfer on Cityscapes: LoCo, section 5.2 and Table 2, by mmdet's mask-rcnn_r50_fpn_1x_cityscapes.py ("the same
# hyperparameters as the ImageNet supervised counterpart"), but never from its COCO-trained detector.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./cityscapes_data.py"]

protocol = dict(dataset="cityscapes", num_splits=1, split_size=None, seed=0)
model = dict(roi_head=dict(bbox_head=dict(loss_bbox=dict(type="SmoothL1Loss", beta=1.0))))
# "64 epochs": mmdet's 8 epochs over the set repeated 8 times, not 64 times 8; its decay after 7 of 8 is ours after 56 of 64.
train_cfg = dict(type="ResumableTrainLoop", max_epochs=64)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=64, milestones=[56], gamma=0.1),
]
