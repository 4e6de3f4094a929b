# A small schedule on the embedded synthetic data set. The numbers are ours: the papers have no run of this size.
_base_ = ["./pretrain_runtime.py"]

synthetic_data = dict(root="data/synthetic")
train_dataloader = dict(
    dataset=dict(
        data_root="data/synthetic/unlabeled2017",
        cache=True,
        views=dict(size=40, min_scale=0.6, grayscale=0.5, blur=0.0),
    ),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=4e-3, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=1, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=8)
