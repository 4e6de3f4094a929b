# COCO-1K: LoCo, section 5.3 and Table 3.
_base_ = ["./few_label_finetuning.py"]

protocol = dict(dataset="coco1k", num_splits=5, split_size=1_000, seed=0)  # "5 random splits"
train_cfg = dict(type="ResumableIterTrainLoop", max_iters=15_000)  # "15k iterations (240 epochs)"
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=15_000, milestones=[10_000, 13_333], gamma=0.1),
]
