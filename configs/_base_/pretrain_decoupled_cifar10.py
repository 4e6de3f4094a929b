# CIFAR-10 with the augmentation of Fournier et al., 2023 (appendix: no blur, jitter 0.4 / 0.4 / 0.4 / 0.1, p 0.8, grayscale
# 0.2). Images in memory, both views made on the device.
_base_ = ["./pretrain_decoupled.py"]

data_preprocessor = dict(
    type="BatchedTwoViewsPreprocessor", size=32, min_scale=0.08, color_strength=0.5, grayscale=0.2, blur=0.0
)
train_dataloader = dict(
    num_workers=0,  # nothing is left for workers to do
    persistent_workers=False,
    collate_fn=dict(type="batched_already"),
    dataset=dict(type="InMemoryDataset", data_root="data/cifar10", source="cifar10", split="train"),
)
