# BYOL's recipe on ImageNet-1K for 100 epochs (Grill et al., 2020, and byol/configs/byol.py of the official code). LARS, the
# batch of 4096, weight decay 1e-6, 10 epochs of warm-up and the cosine are those of the base.
_base_ = ["./pretrain_imagenet.py"]

train_dataloader = dict(
    # table 6: the first view is always blurred, the second rarely, and sometimes solarized
    dataset=dict(views=dict(color_strength=0.5, saturation=0.4, blur=1.0, second=dict(blur=0.1, solarize=0.2))),
)
optim_wrapper = dict(lr_scaling=dict(base_lr=0.45))  # official code, 100 epochs; the momentum 0.99 is in the configs
