# COCO-10K: LoCo, section 5.3 and Table 3.
_base_ = ["./few_label_finetuning.py"]

protocol = dict(dataset="coco10k", num_splits=5, split_size=10_000, seed=0)  # "5 random splits"
train_cfg = dict(type="ResumableIterTrainLoop", max_iters=60_000)  # "60k iterations (96 epochs)"
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=False, begin=0, end=60_000, milestones=[40_000, 53_333], gamma=0.1),
]
