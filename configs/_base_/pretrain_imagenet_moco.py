# MoCo v2's recipe on ImageNet-1K (He et al., 2020, section 4; Chen et al., 2020b), for 100 epochs, which are ours.
_base_ = ["./pretrain_imagenet.py"]

train_dataloader = dict(
    batch_size=256,  # He et al., section 4, "Training"
    dataset=dict(views=dict(min_scale=0.2, color_strength=0.5)),  # official code, --aug-plus
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    lr_scaling=dict(rule="linear", base_lr=0.03),  # He et al., section 4
    optimizer=dict(type="SGD", momentum=0.9, weight_decay=1e-4),  # He et al., section 4
)
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True, begin=0, convert_to_iter_based=True)]  # MoCo v2
