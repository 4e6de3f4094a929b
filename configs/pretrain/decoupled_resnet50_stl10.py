"""SimCLR in model.rule.k decoupled blocks on STL-10 (Fournier et al., 2023, table 1)."""
# Subsampled: model.objective.threshold=-0.4. Augmentation: appendix (no blur, jitter 0.4 / 0.4 / 0.4 / 0.1, p 0.8, grayscale
# 0.2). Only table 1 ("Max MACs") shows that crops of the 96 px images are enlarged to 224 px. The paper does not say on
# which images it pretrains: here on those without labels, as in Greedy InfoMax, whose evaluation it follows.
_base_ = ["../_base_/pretrain_decoupled.py"]

model = dict(encoder=dict(stem="stl"))
data_preprocessor = dict(type="BaseDataPreprocessor", non_blocking=True)  # from pinned memory
train_dataloader = dict(
    num_workers=8,  # of each process
    pin_memory=True,
    dataset=dict(
        data_root="data/stl10",
        source="stl10",
        split="unlabeled",
        views=dict(size=224, min_scale=0.08, color_strength=0.5, grayscale=0.2, blur=0.0),
    ),
)
