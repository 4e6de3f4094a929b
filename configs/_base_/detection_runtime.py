# What every detection run shares. Evaluation happens once, after training, in loco_det.experiment.experiment.
default_scope = "mmdet"
custom_imports = dict(imports=["loco_det.register"])
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="AtomicCheckpointHook", interval=1, max_keep_ckpts=1, interval_minutes=15),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    throughput=dict(type="ThroughputHook"),
    finite=dict(type="CheckFiniteHook"),
)
custom_hooks = [
    dict(type="CorruptImagesHook", max_share=0.01),
    dict(type="ProgressBarHook"),
]
env_cfg = dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl"))
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
train_cfg = dict(val_begin=1_000_000)  # never within training: mmengine's loop would evaluate after each epoch
val_cfg = dict(type="ValLoop")
