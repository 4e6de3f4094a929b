# Barlow Twins' recipe on ImageNet-1K (Zbontar et al., 2021, section 2.2 and the official code), for 100 epochs (ours).
_base_ = ["./pretrain_imagenet.py"]

train_dataloader = dict(
    batch_size=2048,  # section 2.2
    # section 2.2, as BYOL: the first view is always blurred, the second rarely, and sometimes solarized
    dataset=dict(views=dict(color_strength=0.5, saturation=0.4, blur=1.0, second=dict(blur=0.1, solarize=0.2))),
)
optim_wrapper = dict(
    lr_scaling=dict(base_lr=0.2),  # section 2.2: of the weights, at 256 images
    optimizer=dict(weight_decay=1.5e-6),  # section 2.2
    paramwise_cfg=dict(excluded_lr_mult=0.024),  # 0.0048 for biases and batch norm (section 2.2)
)
param_scheduler = [  # 10 epochs of warm-up, then down by a factor of 1000 (section 2.2)
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-3, by_epoch=True, begin=10, convert_to_iter_based=True),
]
