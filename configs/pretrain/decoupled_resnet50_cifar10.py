"""SimCLR in model.rule.k decoupled blocks on CIFAR-10 (Fournier et al., 2023, table 1)."""
# Subsampled: model.objective.threshold=0. Augmentation: appendix (no blur, jitter 0.4 / 0.4 / 0.4 / 0.1, p 0.8, grayscale
# 0.2). Images in memory, both views made on the device.
_base_ = ["../_base_/pretrain_decoupled.py"]

data_preprocessor = dict(
    type="BatchedTwoViewsPreprocessor", size=32, min_scale=0.08, color_strength=0.5, grayscale=0.2, blur=0.0
)
train_dataloader = dict(
    num_workers=0,  # nothing is left for workers to do
    persistent_workers=False,
    collate_fn=dict(type="batched_already"),
    dataset=dict(type="InMemoryDataset", data_root="data/cifar10", source="cifar10", split="train"),
)
