# Frozen transfer on COCO: LoCo, section 5.2 and Table 2, by mmdet's mask-rcnn_r50_fpn_1x_coco.py.
_base_ = ["./mask_rcnn.py", "./detection_runtime.py", "./coco_data.py"]

data = dict(num_train_images=118_287)  # of train2017, so that nothing else is filed under "coco"
protocol = dict(dataset="coco", num_splits=1, split_size=None, seed=0)
train_cfg = dict(type="ResumableTrainLoop", max_epochs=12)  # "1x (~12 epochs) schedule"
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
