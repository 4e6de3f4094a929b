# VICReg's recipe on ImageNet-1K for 100 epochs (Bardes et al., 2022, and the official code's README).
_base_ = ["./pretrain_imagenet.py"]

train_dataloader = dict(
    batch_size=512,  # README, 100 epochs
    # the paper's appendix: BYOL's augmentations, both views alike
    dataset=dict(views=dict(color_strength=0.5, saturation=0.4, blur=0.5, solarize=0.1)),
)
optim_wrapper = dict(lr_scaling=dict(base_lr=0.3))  # README, 100 epochs; weight decay 1e-6 (official code), as in the base
param_scheduler = [  # 10 epochs of warm-up, then down by a factor of 1000 (official code)
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=10, convert_to_iter_based=True),
]
