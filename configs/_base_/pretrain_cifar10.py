# CIFAR-10 by SimCLR's recipe for it (SimCLR, appendix B.9: no blur, half the colour strength, LARS, learning rate 1, weight
# decay 1e-6; its temperature 0.5 is in the configs). Images in memory, both views made on the device. Batch, epochs: ours.
_base_ = ["./pretrain_runtime.py"]

data_preprocessor = dict(type="BatchedTwoViewsPreprocessor", size=32, color_strength=0.5, blur=0.0)
train_dataloader = dict(
    batch_size=512,
    num_workers=0,  # nothing is left for workers to do
    persistent_workers=False,
    collate_fn=dict(type="batched_already"),
    dataset=dict(type="InMemoryDataset", data_root="data/cifar10", source="cifar10", split="train"),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="LARS", lr=1.0, momentum=0.9, weight_decay=1e-6),
    constructor="ContrastiveOptimWrapperConstructor",
    paramwise_cfg=dict(exclude_norm_and_bias=True),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=10, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=200)
default_hooks = dict(checkpoint=dict(interval=20))
