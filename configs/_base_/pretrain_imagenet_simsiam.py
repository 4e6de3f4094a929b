# SimSiam's recipe on ImageNet-1K for 100 epochs (Chen and He, 2021, section 3, "Baseline settings", and the official code).
# The predictor's learning rate follows the schedule, as in the paper's baseline; the code's --fix-pred-lr is not there.
_base_ = ["./pretrain_imagenet.py"]

train_dataloader = dict(
    batch_size=512,  # section 3
    dataset=dict(views=dict(min_scale=0.2, color_strength=0.5)),  # official code, as MoCo v2
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    lr_scaling=dict(rule="linear", base_lr=0.05),  # section 3
    optimizer=dict(type="SGD", momentum=0.9, weight_decay=1e-4),  # section 3
)
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True, begin=0, convert_to_iter_based=True)]  # section 3
