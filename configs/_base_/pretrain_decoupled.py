# Decoupled SimCLR on small images, with or without subsampling (Fournier et al., 2023, sections 3.1 and 4, appendix). Where
# the paper says nothing (a schedule of the learning rate, layers of the MLP, parameters without decay), nothing is added.
_base_ = ["./pretrain_runtime.py"]

model = dict(
    type="LocalContrastiveLearner",
    encoder=dict(type="resnet50", stem="small"),
    rule=dict(type="decoupled", k=1),
    head=dict(conv_blocks="plain_conv", norm="none"),  # appendix, "Split details"; MLP of the objective, 2 layers to 128
    objective=dict(type="NTXent", temperature=0.5),  # Fournier et al., section 4
    channels_last=True,
)
train_cfg = dict(max_epochs=1000)
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3, weight_decay=1e-6))
param_scheduler = None  # a constant rate: the first epochs of a long run are a short run
default_hooks = dict(checkpoint=dict(interval=50))
