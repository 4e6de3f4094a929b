# What every pretraining run shares: mmengine's logging, the loop and its checkpoints, and how two-view batches are loaded.
default_scope = "mmengine"
custom_imports = dict(imports=["pretrain.run"])
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="AtomicCheckpointHook", interval=1, max_keep_ckpts=3, interval_minutes=30),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    throughput=dict(type="ThroughputHook"),
    finite=dict(type="CheckFiniteHook"),
)
custom_hooks = [
    dict(type="CorruptImagesHook", max_share=0.01),
    dict(type="ProgressBarHook"),
]
# Averages between two log lines; of rates and memory the last value.
log_processor = dict(window_size=20, mean_pattern="^(?!(.*/)?(lr|base_lr|.*per_second|memory_mib)$)")
visualizer = dict(  # in the work directory: */vis_data/scalars.json, and event files for tensorboard --logdir
    type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
)
randomness = dict(seed=0)
train_cfg = dict(type="ResumableTrainLoop")
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="KeyedSampler"),
    collate_fn=dict(type="default_collate"),
    dataset=dict(type="TwoViewImages"),
)
