# 100 epochs of ImageNet-1K ("All entries are trained with 100 epochs", LoCo, Tables 4, 5 and 7).
# The paper trains with LARS, learning rate 4.8, at batch size 4096 (section 5.1). Until LARS and training on several
# processes exist here, SGD with momentum at batch size 256 stands in for them; then they replace it.
_base_ = ["./pretrain_runtime.py"]

max_epochs = 100
train_dataloader = dict(
    batch_size=256,  # the paper: 4096
    num_workers=8,
    dataset=dict(
        data_root="data/imagenet/train",
        views=dict(size=224, min_scale=0.08, color_strength=1.0, grayscale=0.2, blur=0.5),  # section 5.1; SimCLR, appendix A
    ),
)
optim_wrapper = dict(
    type="OptimWrapper",
    # lr = 0.3 B / 256, which is the paper's 4.8 at B = 4096; weight decay: SimCLR, section 2.3; momentum: LARS's
    optimizer=dict(type="SGD", lr=0.3, momentum=0.9, weight_decay=1e-6),
)
param_scheduler = [  # section 5.1: 10 epochs of linear warm-up, then a cosine without restart
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=10, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=max_epochs)
default_hooks = dict(checkpoint=dict(interval=10))
