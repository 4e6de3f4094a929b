# A few epochs of CIFAR-10 on a CPU; optimizer and schedule are ours, for a short run.
_base_ = ["./pretrain_cifar10.py"]

train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=2e-3, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50),
]
train_cfg = dict(max_epochs=3)
default_hooks = dict(checkpoint=dict(interval=1))
