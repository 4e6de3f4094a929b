# Pretraining on ImageNet-1K as in LoCo, section 5.1: LARS at a global batch of 4096. Where the section says "standard" or
# nothing, the values are SimCLR's, which the paper takes as its baseline and as its loss (sections 2 and 3.1).
_base_ = ["./pretrain_runtime.py"]

train_cfg = dict(max_epochs=100)  # Tables 2 and 3 ("100 epochs"), 4, 5, 7 ("all entries"); 800 in section 5.1
# Precision is the model's, and so in each config (bases cannot share a key). The paper names none. bfloat16 has float32's
# range and halves the activations' memory; weights, LARS, batch norm's statistics and losses stay in float32, and all rules
# are run alike. channels_last is the layout that tensor cores read. Without: model.autocast=None model.channels_last=False.
env_cfg = dict(cudnn_benchmark=True)  # all batches have one shape
data_preprocessor = dict(type="BaseDataPreprocessor", non_blocking=True)  # from pinned memory
train_dataloader = dict(
    batch_size=4096,  # section 5.1; over all processes
    num_workers=8,  # of each process
    persistent_workers=True,
    pin_memory=True,
    dataset=dict(
        type="TwoViewImages",
        source="imagenet",
        split="train",
        data_root="data/imagenet",
        # section 5.1: crops, colour distortion, blur; their strengths: SimCLR, appendix A
        views=dict(size=224, min_scale=0.08, color_strength=1.0, grayscale=0.2, blur=0.5),
    ),
)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="ContrastiveOptimWrapperConstructor",
    lr_scaling=dict(rule="linear", base_lr=0.3),  # 0.3 * 4096 / 256 = 4.8 (section 5.1); the rule: SimCLR, section 2.3
    optimizer=dict(
        type="LARS",  # section 5.1; trust coefficient 0.001, its default (You et al. 2017 and SimCLR's code)
        momentum=0.9,  # You et al. 2017 and SimCLR's code
        weight_decay=1e-6,  # SimCLR, section 2.3
    ),
    paramwise_cfg=dict(exclude_norm_and_bias=True),  # SimCLR's code, following You et al.
)
param_scheduler = [  # section 5.1: 10 epochs of linear warm-up, then a cosine without restart to the end of train_cfg
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=10, convert_to_iter_based=True),
]
