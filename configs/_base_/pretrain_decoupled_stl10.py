# STL-10 with the augmentation of Fournier et al., 2023 (appendix: no blur, jitter 0.4 / 0.4 / 0.4 / 0.1, p 0.8, grayscale
# 0.2). That crops of the 96 px images are enlarged to 224 px is told by its table 1 alone ("Max MACs"). Nor does it say on
# which images it pretrains: here on those without labels, as Greedy InfoMax does, whose protocol its readout follows.
_base_ = ["./pretrain_decoupled.py"]

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
